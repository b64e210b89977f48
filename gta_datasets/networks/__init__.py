"""Window networks; none of them knows what a noise level is."""

from torch import nn

from gta_datasets.config import NetworkConfig
from gta_datasets.networks.mixer_unet import MixerUNet
from gta_datasets.networks.temporal_mixer import TemporalMixer

__all__ = ["MixerUNet", "TemporalMixer", "build_network"]


def build_network(config: NetworkConfig, rows: int, in_features: int, out_features: int) -> nn.Module:
    """The network of a configuration for windows of `rows` rows."""
    if config.network == "mixer_unet":
        return MixerUNet(rows, in_features, out_features, width=config.width or 16)
    return TemporalMixer(rows, in_features, out_features, width=config.width or 256, depth=config.depth)
