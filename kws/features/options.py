"""What a front-end can be told: Kaldi's options by Kaldi's names (src/feat/feature-window.h, mel-computations.h,
feature-spectrogram.h, feature-fbank.h, feature-mfcc.h), and its `.conf` files.

Defaults are Kaldi's but for `dither`, which is 0: the same sound gives the same frames.
"""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from kws.errors import OptionError

WINDOW_TYPES = ("povey", "hamming", "hanning", "sine", "rectangular", "blackman")


@dataclass(frozen=True, kw_only=True)
class FrameOptions:
    """How sound is cut into windows (Kaldi: FrameExtractionOptions). Lengths in ms, waves in int16 units."""

    sample_frequency: float = 16000.0
    frame_length: float = 25.0
    frame_shift: float = 10.0
    dither: float = 0.0  # standard deviation of added noise, in int16 units; Kaldi's default is 1
    dither_seed: int = 0  # ours: the noise is a function of this, the utterance and the frame
    preemphasis_coefficient: float = 0.97
    remove_dc_offset: bool = True
    window_type: str = "povey"
    blackman_coeff: float = 0.42
    round_to_power_of_two: bool = True
    snip_edges: bool = True
    allow_downsample: bool = False  # sound of a higher rate is resampled instead of refused
    allow_upsample: bool = False  # likewise of a lower one
    max_feature_vectors: int = -1  # Kaldi's bound on what its online features remember; ours remember one window

    def __post_init__(self):
        if self.window_type not in WINDOW_TYPES:
            raise OptionError(f"window_type={self.window_type!r}: choose one of {', '.join(WINDOW_TYPES)}")
        if self.window_samples < 2 or self.shift_samples < 1:
            raise OptionError(
                f"frame_length={self.frame_length} ms and frame_shift={self.frame_shift} ms are too short"
            )
        if not self.dither >= 0 or not 0 <= self.preemphasis_coefficient <= 1:
            raise OptionError(
                f"dither={self.dither}, preemphasis_coefficient={self.preemphasis_coefficient}: expected a dither"
                " from 0 and a coefficient from 0 to 1"
            )

    @cached_property
    def window_samples(self) -> int:
        return int(self.sample_frequency * 0.001 * self.frame_length)

    @cached_property
    def shift_samples(self) -> int:
        return int(self.sample_frequency * 0.001 * self.frame_shift)

    @cached_property
    def fft_samples(self) -> int:
        n = self.window_samples
        return 1 << (n - 1).bit_length() if self.round_to_power_of_two else n + n % 2

    def resamples(self, rate: float) -> bool:
        """Whether sound of `rate` Hz is resampled; False where it has the right rate.

        Raises:
            OptionError: the rate is another, and resampling is not allowed.
        """
        if rate == self.sample_frequency:
            return False
        if not (self.allow_downsample if rate > self.sample_frequency else self.allow_upsample):
            raise OptionError(f"its rate is {rate:g} Hz, not {self.sample_frequency:g}")
        return True


@dataclass(frozen=True, kw_only=True)
class SpectrogramOptions(FrameOptions):
    """Log power of every point of the FFT, the frame's log energy in the first column (Kaldi: SpectrogramOptions)."""

    energy_floor: float = 0.0
    raw_energy: bool = True
    return_raw_fft: bool = False  # the transform itself: Re 0, Re Nyquist, then Re and Im of each point
    use_power: ClassVar[bool] = True
    use_log_fbank: ClassVar[bool] = True
    htk_mode: ClassVar[bool] = False

    @property
    def use_energy(self) -> bool:
        return not self.return_raw_fft

    @property
    def dim(self) -> int:
        """Columns of a frame."""
        return self.fft_samples if self.return_raw_fft else self.fft_samples // 2 + 1


@dataclass(frozen=True, kw_only=True)
class MelOptions(FrameOptions):
    """Triangular filters over the mel scale (Kaldi: MelBanksOptions), in Hz."""

    num_mel_bins: int = 23
    low_freq: float = 20.0
    high_freq: float = 0.0  # 0 or below counts down from the Nyquist frequency
    vtln_low: float = 100.0  # where the warping of frequencies begins
    vtln_high: float = -500.0  # where it ends; below 0 counts down from the Nyquist frequency
    htk_mode: bool = False  # energies below 1 become 1, and one weight 0, as HTK has it
    energy_floor: float = 0.0  # of energies as they are before the logarithm; 0: none
    raw_energy: bool = True  # energy before pre-emphasis and window
    htk_compat: bool = False
    return_raw_fft: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        nyquist = self.sample_frequency / 2
        if not 0 <= self.low_freq < self.high_hz <= nyquist:
            raise OptionError(
                f"low_freq={self.low_freq} and high_freq={self.high_freq} mean {self.low_freq} to {self.high_hz} Hz;"
                f" expected 0 <= low < high <= {nyquist}"
            )
        if self.num_mel_bins < 3:
            raise OptionError(f"num_mel_bins={self.num_mel_bins}: at least 3 are needed")

    @property
    def high_hz(self) -> float:
        return self.high_freq if self.high_freq > 0 else self.sample_frequency / 2 + self.high_freq


@dataclass(frozen=True, kw_only=True)
class FbankOptions(MelOptions):
    """Mel filter-bank energies (Kaldi: FbankOptions)."""

    use_energy: bool = False  # one more column: the frame's log energy; first, or last with htk_compat
    use_log_fbank: bool = True
    use_power: bool = True  # False: magnitudes

    @property
    def dim(self) -> int:
        return self.num_mel_bins + self.use_energy


@dataclass(frozen=True, kw_only=True)
class MfccOptions(MelOptions):
    """Mel-frequency cepstra (Kaldi: MfccOptions). With `htk_compat` the first column stands last."""

    num_ceps: int = 13
    use_energy: bool = True  # log energy in the place of C0
    cepstral_lifter: float = 22.0
    use_power: ClassVar[bool] = True
    use_log_fbank: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.num_ceps <= self.num_mel_bins:
            raise OptionError(f"num_ceps={self.num_ceps}: expected 1 to num_mel_bins={self.num_mel_bins}")

    @property
    def dim(self) -> int:
        return self.num_ceps


@dataclass(frozen=True, kw_only=True)
class MicroOptions:
    """The front-end of ESPHome's micro_wake_word (`kws.features.micro`), which has but one setting of everything."""

    allow_downsample: bool = False
    allow_upsample: bool = False
    sample_frequency: ClassVar[float] = 16000.0
    frame_length: ClassVar[float] = 30.0
    frame_shift: ClassVar[float] = 10.0
    window_samples: ClassVar[int] = 480
    shift_samples: ClassVar[int] = 160
    snip_edges: ClassVar[bool] = True
    dither: ClassVar[float] = 0.0
    dither_seed: ClassVar[int] = 0
    dim: ClassVar[int] = 40
    resamples = FrameOptions.resamples


Options = SpectrogramOptions | FbankOptions | MfccOptions | MicroOptions
TYPES = {"fbank": FbankOptions, "mfcc": MfccOptions, "spectrogram": SpectrogramOptions, "micro": MicroOptions}
NOT_IN_CONF = ("dither_seed", "htk_mode")  # one is ours, the other Kaldi's but not on its command line
# options of compute-*-feats itself, which are about files: `kws.extract` has them as its arguments
OF_THE_PROGRAM = ("channel", "debug_mel", "min_duration", "output_format", "subtract_mean", "utt2spk", "verbose",
                  "vtln_map", "vtln_warp", "write_utt2dur")  # fmt: skip


def make_options(type: str = "fbank", conf: str | Path | None = None, **options) -> Options:
    """Options of a feature type by name, with unknown names refused and the known ones listed.

    Args:
        conf: a Kaldi configuration; where it is given, it and Kaldi's defaults take the place of `options`.
    """
    if type not in TYPES:
        raise OptionError(f"feature type {type!r}: choose one of {', '.join(TYPES)}")
    if conf is not None:
        return read_conf(conf, type)
    known = {field.name for field in dataclasses.fields(TYPES[type])}
    if unknown := sorted(set(options) - known):
        raise OptionError(f"{type} has no option {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    return TYPES[type](**options)


def describe(options: Options) -> dict:
    """Plain values that `make_options(**...)` turns back into the same options: what a checkpoint carries."""
    kind = next(name for name, of in TYPES.items() if type(options) is of)
    return {"type": kind, **dataclasses.asdict(options)}


def read_conf(path: str | Path, type: str) -> Options:
    """The options in a Kaldi configuration: a `--name=value` a line, `#` before remarks (ParseOptions::ReadConfigFile).

    What it does not name has Kaldi's default, but for dither.

    Raises:
        OptionError: naming the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise OptionError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    fields, chosen = {field.name: field for field in dataclasses.fields(TYPES[type])}, {}
    for number, line in enumerate(lines, 1):
        if not (text := line.partition("#")[0].strip()):
            continue
        at = f"{path}, line {number}"
        name, equals, value = text.partition("=")
        key = name.removeprefix("--").replace("-", "_").lower()
        if not name.startswith("--"):
            raise OptionError(f"{at}: expected --name=value, found {text!r}")
        if key in OF_THE_PROGRAM:
            raise OptionError(f"{at}: {name} is about files, not features: give it to kws.extract")
        if key not in fields or key in NOT_IN_CONF:
            known = ", ".join(sorted(_spelled(name) for name in fields if name not in NOT_IN_CONF))
            raise OptionError(f"{at}: {type} has no option {name}; it has {known}")
        try:
            chosen[key] = _value(value.strip() if equals else "true", fields[key].type)
        except ValueError:
            raise OptionError(f"{at}: {name} takes a {fields[key].type.__name__}, found {value!r}") from None
    try:
        return TYPES[type](**chosen)
    except OptionError as error:
        raise OptionError(f"{path}: {error}") from None


def write_conf(options: Options, path: str | Path) -> None:
    """Writes every option as a Kaldi configuration, defaults too, so that nothing depends on whose they are."""
    rows = {name: value for name, value in dataclasses.asdict(options).items() if name not in NOT_IN_CONF}
    text = "".join(f"{_spelled(name)}={str(value).lower()}\n" for name, value in rows.items())
    Path(path).write_text(text, encoding="utf-8")


def _spelled(name: str) -> str:
    return "--" + name.replace("_", "-")


def _value(text: str, kind: type):
    if kind is bool:
        if text.lower() not in ("true", "t", "1", "false", "f", "0"):  # what ParseOptions::ToBool takes
            raise ValueError(text)
        return text.lower() in ("true", "t", "1")
    return kind(text)
