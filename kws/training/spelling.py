"""How the labels of a run, and what its clips say, are spelt for the model's speller."""

from collections.abc import Callable

from omegaconf import DictConfig

from kws.data.near import phonemes
from kws.errors import KwsError
from kws.losses import PerClip
from kws.models.speller import spell


def spelling(cfg: DictConfig, loss: type[PerClip], labels: list[str]) -> Callable[[str], list[int]] | None:
    """Writes into `cfg` how the labels are said, if its model has a speller and its loss looks at every step.

    Returns:
        what spells a text, where the loss asks for it.

    Raises:
        KwsError: model, loss and train.frozen do not go together, or a word has a phone that the model does not know.
    """
    speller = cfg.model.get("speller")
    if speller is None or not loss.spans:
        if loss.spells:
            raise KwsError("loss=ctc trains a model that spells: say model=speech_phones")
        return None
    if not loss.spells and cfg.train.frozen < speller.after:
        raise KwsError(f"model.speller hears the first {speller.after} blocks, which this loss would train without"
                       f" it: say loss=ctc, train.frozen={speller.after} or another model")  # fmt: skip

    if strange := [accent for accent in cfg.data.get("accents") or [] if not str(accent).startswith("en")]:
        raise KwsError(f"data.accents={strange}: model.speller knows the phones of English alone")

    def spells(text: str) -> list[int]:
        try:
            return spell(phonemes(text), speller.phones)
        except ValueError as error:
            raise KwsError(f"model.speller.phones: {text!r}: {error}") from None

    for label in labels:
        if not label.startswith("_"):
            spells(label)
    speller.spoken = ["" if label.startswith("_") else phonemes(label) for label in labels]
    return spells if loss.spells else None
