# %% [markdown]
# # From a dataset to better policies
#
# A notebook in the form of a script: VS Code and Spyder open it cell by cell, `jupytext --to notebook tutorial.py`
# makes a file for Jupyter, and `python tutorial.py` runs all of it. It downloads nothing and needs
#
#     pip install ".[demo,d3rlpy,sb3]"
#
# in a checkout.
#
# There are four steps, with a picture of what came out of each:
#
# 1. a Minari dataset,
# 2. generated trajectories beside it (GTA), and a policy trained on both with TD3+BC,
# 3. a generative trajectory policy (GTP) trained on both,
# 4. an agent that is pretrained on it, and goes on online beside a model of it (ATraDiff).
#
# The size `"small"` only shows that everything runs: its numbers mean nothing. `"real"` takes far longer, enough to see
# what every part does. It is one seed and few updates, and no evidence that one thing is better than another; for that
# there are [measured results](does-it-help.md).

# %%
import os
import time
from pathlib import Path

import d3rlpy
import gymnasium
import matplotlib.pyplot as plt
import numpy as np
import pandas
from stable_baselines3 import SAC
from stable_baselines3.common.logger import configure

import gta_datasets
from gta_datasets.adapters import pretrain
from gta_datasets.demo import make_demo_dataset
from gta_datasets.policies import GTPBCConfig

PICTURES = Path("tutorial")  # a folder; a notebook shows the pictures as well
SIZES = {
    "small": {
        "preset": "smoke",
        "num_transitions": 2_000,  # to generate
        "td3_bc_updates": 50,
        "gtp_updates": 50,
        "trials": 1,  # episodes per evaluation
        "episode_steps": 100,  # at most, in evaluations and online
        "sac_updates": 20,
        "online_steps": 200,
    },
    "real": {
        "preset": "demo",
        "num_transitions": 40_000,
        "td3_bc_updates": 10_000,
        "gtp_updates": 3_000,
        "trials": 5,
        "episode_steps": 1_000,
        "sac_updates": 2_500,
        "online_steps": 20_000,
    },
}
SIZE = SIZES[os.environ.get("TUTORIAL_SIZE", "small")]

PICTURES.mkdir(parents=True, exist_ok=True)
plt.rcParams.update({"figure.constrained_layout.use": True, "axes.spines.right": False, "axes.spines.top": False})

# %% [markdown]
# ## 1. A dataset
#
# The source is that of `gta-datasets demo`: 40 episodes of a half-trained agent in HalfCheetah, played now by a policy
# that comes with the library. For data of your own put `minari.load_dataset("mujoco/hopper/medium-v0", download=True)`
# in its place. Steps 3 and 4 need continuous actions, and the evaluations the environment that the dataset names.

# %%
source = make_demo_dataset()
env = gymnasium.make(source.env_spec, max_episode_steps=SIZE["episode_steps"])

recorded = [episode.rewards for episode in source]  # by episode
behaviour = np.mean([rewards[: SIZE["episode_steps"]].sum() for rewards in recorded])
print(f"{source.total_episodes} episodes, {source.total_steps} transitions, mean return {behaviour:.0f}")


def mark_returns(axes: plt.Axes) -> None:
    """Draw what a return is to be compared with."""
    axes.axhline(0, color="black", linewidth=0.6)
    axes.axhline(behaviour, color="tab:gray", linestyle="--", label="mean of the source")


# %% [markdown]
# ## 2. More and better data
#
# GTA takes windows of the source, adds noise, and takes the noise away again while it asks for a higher return.
# `augment` returns at once; the model is trained when a generated trajectory is first read, and stays in the cache.

# %%
augmented = gta_datasets.augment(source, preset=SIZE["preset"], num_transitions=SIZE["num_transitions"])
generated = augmented.generated
print(f"{augmented.total_steps} transitions in all, {generated.total_steps} of them generated")

# %% [markdown]
# ### What came out?
#
# Look before you train on it. The oracle is the simulator, set to the generated states and given the generated actions.
# Its reward should be above the source's: better behaviour. It should be what the data record, and the dynamics error
# should be small, also in its tail: true behaviour. The demo's network is small and briefly trained; a larger preset or
# `qualify=0.03` shortens the tail. `report.html` has the same table with more pictures, and says what every line means.

# %%
quality = augmented.report(PICTURES / "report.html")
print(quality)

# %% [markdown]
# Every generated trajectory knows the window it was made from. Above the diagonal it earns more than that.

# %%
origins = generated.storage.get_episode_metadata(generated.episode_indices)
pairs = []
for origin, episode in zip(origins, generated, strict=True):
    start = origin["source_start"]
    window = recorded[origin["source_episode"]][start : start + len(episode.rewards)]
    pairs.append((window.sum(), episode.rewards.sum()))
before, after = np.array(pairs).T

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8))
bins = np.linspace(min(before.min(), after.min()), max(before.max(), after.max()), 40)
left.hist(before, bins, color="tab:gray", alpha=0.6, label="source")
left.hist(after, bins, color="tab:blue", histtype="step", linewidth=1.8, label="generated")
left.set(xlabel="sum of the rewards of a window", ylabel="windows")
left.legend(frameon=False)
right.plot(before, after, ".", color="tab:blue", alpha=0.4, markersize=4, markeredgewidth=0)
right.plot(bins, bins, color="black", linewidth=0.8)
right.set(xlabel="window of the source", ylabel="what was made from it", aspect="equal")
figure.savefig(PICTURES / "returns.png", dpi=120)

# %% [markdown]
# ### TD3+BC on it
#
# `to_d3rlpy` gives a replay buffer for any algorithm of d3rlpy; `real_fraction` is the share of recorded data in every
# batch. `alpha` is less than d3rlpy's 2.5: the policy stays closer to the data, and a few thousand updates are enough
# to see something. Expect it to be about as good as the data, with an episode now and then that fails. Whether
# generated data make it better shows after ten times as many updates and over several seeds.

# %%
d3rlpy.seed(0)
buffer = augmented.to_d3rlpy(real_fraction=0.5)
td3_bc = d3rlpy.algos.TD3PlusBCConfig(alpha=1.0, observation_scaler=buffer.observation_scaler()).create()
epochs = td3_bc.fit(
    buffer,
    n_steps=SIZE["td3_bc_updates"],
    n_steps_per_epoch=SIZE["td3_bc_updates"] // 5,
    logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
    evaluators={"return": d3rlpy.metrics.EnvironmentEvaluator(env, n_trials=SIZE["trials"])},
)
td3_bc_returns = [metrics["return"] for _, metrics in epochs]

figure, axes = plt.subplots(figsize=(6, 3.4))
axes.plot(SIZE["td3_bc_updates"] // 5 * np.arange(1, 6), td3_bc_returns, "o-", color="tab:blue", label="TD3+BC")
mark_returns(axes)
axes.set(xlabel="updates", ylabel="return")
axes.legend(frameon=False)
figure.savefig(PICTURES / "td3-bc.png", dpi=120)

# %% [markdown]
# ## 3. A generative policy
#
# GTP-BC clones behaviour with a flow map: K jumps take noise to an action. Where data act in several ways it keeps them
# apart, and a Gaussian averages them. K is chosen when the policy acts. More jumps take more time; these data, all from
# one agent, hardly need them. Expect about the returns of the source, again with an episode now and then that fails.
# `GTPConfig` adds critics, which prefer the better actions; an update then takes longer. More on the page on
# [policies](policies.md).

# %%
policy = GTPBCConfig(observation_scaler=buffer.observation_scaler()).create()
policy.fit(
    buffer,
    n_steps=SIZE["gtp_updates"],
    n_steps_per_epoch=SIZE["gtp_updates"],
    logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
)


def play(steps: int, seed: int) -> tuple[float, float]:
    """Return of one episode, and milliseconds per action, with so many jumps."""
    observation, _ = env.reset(seed=seed)
    total, actions, thinking, over = 0.0, 0, 0.0, False
    while not over:
        started = time.perf_counter()
        action = policy.predict(observation[None].astype(np.float32), steps=steps)[0]
        thinking += time.perf_counter() - started
        observation, reward, terminated, truncated, _ = env.step(action)
        total, actions, over = total + reward, actions + 1, terminated or truncated
    return total, 1e3 * thinking / actions


jumps = [1, 2, 5]
played = np.array([[play(steps, seed) for seed in range(SIZE["trials"])] for steps in jumps])
gtp_returns, milliseconds = played[..., 0], played[..., 1].mean(axis=1)

places = np.arange(len(jumps))
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
left.plot(places, gtp_returns, "o", color="tab:blue", alpha=0.5)
left.plot(places, gtp_returns.mean(axis=1), "_", color="tab:blue", markersize=24, label="mean of GTP-BC's episodes")
mark_returns(left)
left.set(ylabel="return", xlim=(-0.5, len(jumps) - 0.5))
left.legend(frameon=False)
right.bar(places, milliseconds, color="tab:blue", width=0.5)
right.set(ylabel="milliseconds per action")
for axes in (left, right):
    axes.set(xlabel="K, jumps per action", xticks=places, xticklabels=jumps)
figure.savefig(PICTURES / "gtp.png", dpi=120)

# %% [markdown]
# ## 4. Going on online
#
# `pretrain` trains any off-policy agent of Stable-Baselines3 on a dataset. Nothing keeps SAC to what the data hold, so
# a few updates are a start, and many do harm: its critics believe in actions that nobody tried. What is missing is
# experience. Online the agent learns from its own transitions, and from trajectories that a model of the source
# generates from the states it comes to. That takes the buffer, and `learn` with the buffer's callback; the lines about
# the logger keep Stable-Baselines3's log as a file.
#
# The agent of the source had learned for 120,000 steps: expect returns far below its own. What shows is that the buffer
# keeps the share `rho`, and what that costs in time. More on the page on [online learning](online.md).

# %%
replay = gta_datasets.online.ATraDiffReplayBuffer.from_dataset(
    source, env, rho=0.5, preset=SIZE["preset"], lengths=(15,), adapt_every=SIZE["online_steps"] // 4
)
agent = SAC("MlpPolicy", env, seed=0, learning_starts=0, stats_window_size=1)
pretrain(agent, source, SIZE["sac_updates"])
agent.set_logger(configure(str(PICTURES / "online"), ["csv"]))
agent.learn(SIZE["online_steps"], callback=replay.callback(), log_interval=1)
agent.logger.close()

log = pandas.read_csv(PICTURES / "online" / "progress.csv")
steps = log["time/total_timesteps"]
share = log["atradiff/generated"] / (log["atradiff/generated"] + log["atradiff/recorded"])

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
left.plot(steps, log["rollout/ep_rew_mean"], "o-", color="tab:blue", markersize=4, label="pretrained SAC with ATraDiff")
mark_returns(left)
left.set(ylabel="return of an episode")
right.plot(steps, share, color="tab:blue", label="of the transitions: generated")
right.plot(steps, log["atradiff/generation_share"], color="tab:orange", label="of the time: generating")
right.plot(steps, log["atradiff/adaptation_share"], color="tab:green", label="of the time: adapting")
right.set(ylabel="share", ylim=(0, 1))
for axes in (left, right):
    axes.set(xlabel="steps of the environment")
    axes.locator_params(axis="x", nbins=5)
    axes.legend(frameon=False)
figure.savefig(PICTURES / "online.png", dpi=120)
