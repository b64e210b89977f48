"""Several methods on one page."""

from __future__ import annotations

import dataclasses
import json
import re
from html import escape
from pathlib import Path

import minari
import pytest

import gta_datasets
from gta_datasets import compare
from gta_datasets.comparison import _summary
from gta_datasets.demo import make_demo_dataset
from gta_datasets.errors import ConfigError, DatasetError
from gta_datasets.plots import comparison as plots
from gta_datasets.plots.drawing import legend, new_figure
from tests.builders import linear_dataset
from tests.smoke import tiny


@pytest.fixture(scope="module")
def cheetah() -> minari.MinariDataset:
    return make_demo_dataset("comparison/cheetah-v0", episodes=2)


def rows_of(page: str) -> dict[str, list[str]]:
    """Cells of the table of numbers by label."""
    table = page[page.index("<table>") : page.index("</table>")]
    return {
        re.findall(r"<th scope=row>(.*?)<span", row)[0]: re.findall(r"<td class=number>(.*?)</td>", row)
        for row in table.split("<tr>")[2:]
    }


def test_every_method_has_its_column_and_the_page_says_who_is_best(
    cheetah: minari.MinariDataset, tmp_path: Path
) -> None:
    versions = {
        "ours": tiny(cheetah, num_transitions=300),
        "noise": gta_datasets.augment(cheetah, "s4rl", preset="smoke"),
    }
    path = tmp_path / "new" / "page.html"
    found = compare(versions, path, sample=300)
    assert list(found) == ["ours", "noise"]
    assert found["noise"] == versions["noise"].quality(sample=300)
    page = path.read_text()
    assert re.findall(r'class="number">(.*?)</th>', page) == ["Source", "ours", "noise"]
    rows = rows_of(page)
    assert [len(cells) for cells in rows.values()] == [3] * len(rows)
    assert rows["Oracle reward"][1:] == [f"{quality.generated.oracle_reward:.4g}" for quality in found.values()]
    assert "noise obeys the dynamics best" in page
    assert page.count("<img") == 5
    assert page.count("data:image/png;base64") == 5
    assert re.search(r"noise\.perturbation\.noise", page)


def test_without_a_simulator_the_learned_model_judges(tmp_path: Path) -> None:
    linear = linear_dataset("comparison/linear-v0")
    found = compare({"one": tiny(linear)}, tmp_path / "page.html", sample=50)
    assert found["one"].learned
    assert "by the learned model" in (tmp_path / "page.html").read_text()


def test_a_method_with_many_bad_steps_is_not_recommended(cheetah: minari.MinariDataset, tmp_path: Path) -> None:
    barely_trained = tiny(cheetah, num_transitions=300)
    page = tmp_path / "page.html"
    quality = compare({"wild": barely_trained}, page, sample=300)["wild"]
    assert quality.generated.bad_step_share > quality.source.bad_step_share + 0.1
    assert "of every method is more than 10 percentage points above" in page.read_text()


@pytest.mark.parametrize(
    ("rewards", "bad", "recommended"),
    [
        ({"near": 1.1, "far": 1.5}, {"near": 0.0, "far": 0.05}, "far"),
        ({"near": 1.1, "far": 1.5}, {"near": 0.0, "far": 0.3}, "near"),
        ({"near": 1.1, "far": 1.5}, {"near": 0.4, "far": 0.3}, None),
    ],
)
@pytest.mark.parametrize("floor", [0.0, 0.55])
def test_what_is_recommended_earns_most_without_many_more_bad_steps_than_the_source(
    cheetah: minari.MinariDataset,
    rewards: dict[str, float],
    bad: dict[str, float],
    recommended: str | None,
    floor: float,
) -> None:
    measured = gta_datasets.augment(cheetah, "s4rl", preset="smoke").quality(sample=100)
    qualities = {
        name: dataclasses.replace(
            measured,
            generated=dataclasses.replace(
                measured.generated, oracle_reward=rewards[name], bad_step_share=floor + bad[name], bad_window_share=1.0
            ),
            source=dataclasses.replace(measured.source, bad_step_share=floor),
        )
        for name in rewards
    }
    found = re.findall(r"To begin with, use (\w+):", " ".join(_summary(qualities)))
    assert found == ([] if recommended is None else [recommended])


def test_there_must_be_one_source(tmp_path: Path) -> None:
    one, other = linear_dataset("comparison/one-v0"), linear_dataset("comparison/other-v0")
    with pytest.raises(ConfigError, match=r"of one dataset; given: comparison/one-v0 \(8 .*, comparison/other-v0 \(8"):
        compare({"a": tiny(one), "b": tiny(other)}, tmp_path / "page.html")
    with pytest.raises(ConfigError, match="given: none"):
        compare({}, tmp_path / "page.html")
    some = one.filter_episodes(lambda episode: episode.id < 3)
    with pytest.raises(ConfigError, match=r"given: comparison/one-v0 \(3 episodes\), comparison/one-v0 \(8"):
        compare({"a": tiny(one), "b": tiny(some)}, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_what_is_compared_has_names_and_is_augmented(tmp_path: Path) -> None:
    one = linear_dataset("comparison/plain-v0")
    for given, message in (
        ([tiny(one)], "is of type list; give augmented datasets by the names"),
        ({"plain": one}, "'plain' is of type MinariDataset; give augmented datasets"),
        ({3: tiny(one)}, "the name 3 is of type int; give augmented datasets by the names"),
    ):
        with pytest.raises(ConfigError, match=message):
            compare(given, tmp_path / "page.html")  # type: ignore[arg-type]


def test_a_version_that_cannot_be_made_is_left_out_and_named(tmp_path: Path) -> None:
    alone = linear_dataset("comparison/alone-v0", lengths=(40,))
    stitched = gta_datasets.augment(alone, "diffstitch", preset="smoke", progress=False)
    strict = tiny(alone, qualify=1e-12, qualify_attempts=1)
    page = tmp_path / "page.html"
    with pytest.warns(UserWarning, match="is left out") as warned:
        found = compare({"stitched": stitched, "strict": strict, "sound": tiny(alone)}, page, sample=50)
    assert list(found) == ["sound"]
    sentences = [str(warning.message) for warning in warned if "is left out" in str(warning.message)]
    assert re.match(r"stitched is left out: no two episodes can be joined: .*\.$", sentences[0])
    assert re.match(r"strict is left out: shard 0: .* still exceed qualify=1e-12 .*\.$", sentences[1])
    assert all(escape(sentence) in page.read_text() for sentence in sentences)
    with pytest.raises(DatasetError, match="no two episodes can be joined"):
        compare({"stitched": stitched, "strict": strict}, tmp_path / "none.html", sample=50)
    assert not (tmp_path / "none.html").exists()


def test_more_methods_than_colours_can_be_told_apart(cheetah: minari.MinariDataset, tmp_path: Path) -> None:
    (quality,) = compare({"one": tiny(cheetah, num_transitions=300)}, tmp_path / "page.html", sample=300).values()
    many = {f"method {number}": quality for number in range(9)}
    histograms, errors, dots = (draw(many) for draw in (plots.rewards, plots.dynamics_errors, plots.novelty_and_error))
    assert errors is not None
    assert dots is not None
    looks = [
        [(shape.get_edgecolor(), shape.get_linestyle()) for shape in histograms.axes[0].patches],
        [(line.get_color(), line.get_linestyle()) for line in errors.axes[0].lines],
        [(line.get_color(), line.get_marker()) for line in dots.axes[0].lines],
    ]
    assert [len(set(each)) for each in looks] == [len(each) for each in looks] == [10, 10, 9]  # two with the source


@pytest.mark.parametrize("names", [("a",), tuple("abcdefghijkl"), tuple(f"a name of a method, {i}" for i in range(9))])
def test_all_names_of_a_legend_are_within_the_picture(names: tuple[str, ...]) -> None:
    figure, (axes,) = new_figure()
    for name in names:
        axes.plot([0, 1], label=name)
    legend(figure, axes)
    figure.draw_without_rendering()
    box, page = figure.legends[0].get_window_extent(), figure.bbox
    assert box.x0 >= page.x0
    assert box.x1 <= page.x1
    assert axes.get_window_extent().height > 0.3 * page.height


@pytest.mark.parametrize("method", ["gta", "s4rl", "synther", "diffstitch"])
def test_every_method_can_be_measured(cheetah: minari.MinariDataset, method: str) -> None:
    found = gta_datasets.augment(cheetah, method, preset="smoke", num_transitions=200, progress=False).quality(
        sample=200
    )
    assert found.generated.oracle_reward is not None
    assert json.loads(found.to_json())["generated"]["dynamics_mse"] == found.generated.dynamics_mse
    asks = method in ("gta", "diffstitch")
    assert asks != any("none were asked for" in note for note in found.notes)
    assert asks == (found.pearson is not None)
