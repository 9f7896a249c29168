"""The worst examples of a variant, as its process writes them."""

import base64
import struct
import zlib
from pathlib import Path

import pytest
import torch

from engine.measure.built import Built
from engine.measure.damage_files import read_damage
from engine.measure.damaging import FLIPS_EACH_WAY
from engine.measure.depicting import Speller, depict, picture
from engine.measure.scores import Scores, compare_fidelity
from engine.models.quality import Example, QualityData
from engine.program import Program
from engine.records import VariantDamage
from tests.measure import tiny
from tests.measure.test_scoring import quiet, scored


def damaged(tmp_path: Path, *variants: Built) -> tuple[VariantDamage, list[Scores]]:
    found = scored(tmp_path, *variants)
    assert read_damage(tmp_path / "0") is None
    damage = read_damage(tmp_path / "1")
    assert damage is not None
    return damage, found


def turned_head() -> Built:
    """A classifier two of whose classes have changed places."""
    built = tiny.classifier({}, quiet)
    with torch.no_grad():
        head = built.program.module.head
        head.weight.copy_(head.weight[[1, 0, 2]])
        head.bias.copy_(head.bias[[1, 0, 2]])
    return built


def test_flips_are_shown_with_both_answers_and_counted(tmp_path: Path) -> None:
    plain = tiny.classifier({}, quiet)
    damage, (before, after) = damaged(tmp_path, plain, turned_head())
    fidelity = compare_fidelity(before, after)
    wrong = [each for each in damage.flips if each.kind == "to wrong"]
    assert fidelity.flips_to_wrong is not None
    assert fidelity.flips_to_right is not None
    assert len(wrong) == min(FLIPS_EACH_WAY, fidelity.flips_to_wrong)
    of_both = fidelity.flips_to_wrong + fidelity.flips_to_right
    assert len(damage.flips) + damage.flips_left_out == of_both
    for each in wrong:
        assert each.label == each.before != each.after
        assert 1 / 3 <= each.confidence_before <= 1
        assert each.text  # its first numbers
    # The most certain mistakes come first.
    certain = [each.confidence_before * each.confidence_after for each in wrong]
    assert certain == sorted(certain, reverse=True)


def test_an_answer_s_confidence_is_its_probability(tmp_path: Path) -> None:
    plain = tiny.classifier({}, quiet)
    _, (before, _) = damaged(tmp_path, plain, turned_head())
    with torch.no_grad():
        logits = torch.cat([plain.program.module(e.inputs[0]) for e in plain.quality.evaluation])
    wanted = logits.softmax(-1).amax(-1)
    assert torch.allclose(torch.from_numpy(before.confidence).float(), wanted, atol=1e-5)


def test_confusions_count_every_answer_before_and_after(tmp_path: Path) -> None:
    damage, (before, _) = damaged(tmp_path, tiny.classifier({}, quiet), turned_head())
    for counts in (damage.confusion_before, damage.confusion_after):
        assert sum(map(sum, counts)) == 48
    right = sum(damage.confusion_before[each][each] for each in range(3))
    assert right == int((before.predicted == before.labels).sum())


def test_a_variant_that_answers_alike_has_no_damage(tmp_path: Path) -> None:
    damage, _ = damaged(tmp_path, tiny.generator({}, quiet), tiny.generator({}, quiet))
    assert (damage.flips, damage.prompts, damage.along) == ((), (), ())


def test_prompts_that_part_come_with_the_place_and_kl_token_by_token(tmp_path: Path) -> None:
    other = tiny.generator({}, quiet)
    with torch.no_grad():
        other.program.module.head.weight[3].add_(0.4)
    damage, (before, after) = damaged(tmp_path, tiny.generator({}, quiet), other)
    assert damage.prompts
    worst = damage.prompts[0]
    ours, theirs = after.tokens[worst.number], before.tokens[worst.number]
    assert (ours[: worst.token] == theirs[: worst.token]).all()
    assert ours[worst.token] != theirs[worst.token]
    assert worst.after.split() == [str(each) for each in ours]  # ids, for want of a tokenizer
    assert [each.token for each in damage.prompts] == sorted(p.token for p in damage.prompts)
    along = damage.along[0]
    assert len(along.tokens) == len(along.kl) == 12
    # Over all windows the rows of KL add up to the divergence of the call.
    assert max(along.kl) <= float(after.divergence.max()) + 1e-6
    means = [sum(each.kl) for each in damage.along]
    assert means == sorted(means, reverse=True)
    assert not damage.confusion_before  # tokens are no few classes


def test_a_picture_is_a_png_that_others_read() -> None:
    image = torch.zeros(1, 2, 3)
    image[0, 0, 2] = 5.0
    made = base64.b64decode(picture(image))
    assert made.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", made[16:24]) == (3, 2)
    start = made.index(b"IDAT") + 4
    assert zlib.decompress(made[start:-16]) == b"\0\x00\x00\xff\0\x00\x00\x00"
    large = base64.b64decode(picture(torch.rand(3, 200, 100)))
    assert struct.unpack(">II", large[16:24]) == (24, 48)


@pytest.mark.parametrize("inputs", [(), {}, (torch.tensor(1.0),), ("text",)])
def test_inputs_that_cannot_be_shown_are_left_empty(inputs: object) -> None:
    assert depict(inputs, 0, None, Speller(None)) == ("", "")  # type: ignore[arg-type]


def test_padding_is_not_shown() -> None:
    inputs = {"input_ids": torch.tensor([[5, 6, 0, 0]]),
              "attention_mask": torch.tensor([[1, 1, 0, 0]])}  # fmt: skip
    assert depict(inputs, 0, None, Speller(None)) == ("5 6", "")


def test_what_cannot_be_shown_does_not_cost_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.measure import scoring

    def broken(*args: object, **how: object) -> None:
        raise IndexError("no such row")

    monkeypatch.setattr(scoring, "write_damage", broken)
    (tmp_path / "0").mkdir()
    (tmp_path / "1").mkdir()
    found = [
        scoring.score(
            tiny.classifier({}, quiet), str(tmp_path / name), str(tmp_path / "0"),
            is_baseline=name == "0", limit=None, prompts=8,
        )
        for name in ("0", "1")
    ]  # fmt: skip
    assert found[1]["notes"] == ["its worst examples cannot be shown (IndexError: no such row)."]
    assert len(Scores.load(tmp_path / "1").values) == 48


def test_images_and_labels_missing_in_part_are_shown_right(tmp_path: Path) -> None:
    """An item's place in its batch stays right where others have no label."""

    def built(turn: int) -> Built:
        made = tiny.classifier({}, quiet)
        module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        torch.nn.init.zeros_(module[1].weight)
        with torch.no_grad():
            module[1].weight[0, 0] = 1.0
            module[1].weight[turn, 1] = 4.0
        made.program = Program(module)
        images = torch.eye(4).view(4, 1, 2, 2)
        labels = torch.tensor([-100, 0, 0, 0])
        made.quality = QualityData(
            "accuracy", evaluation=[Example((images,), labels)], class_names=("ox", "cat")
        )  # fmt: skip
        return made

    first, second = built(0), built(2)
    damage, _ = damaged(tmp_path, first, second)
    (flip,) = damage.flips
    assert (flip.kind, flip.before, flip.after, flip.label) == ("to wrong", "ox", "2", "ox")
    assert flip.image == picture(torch.eye(4).view(4, 1, 2, 2)[1])
