"""What a front-end can be told, in Kaldi's names (src/feat/feature-window.h, mel-computations.h, feature-fbank.h,
feature-mfcc.h). Defaults are Kaldi's but for `dither`, which is 0: the same sound always gives the same frames."""

import dataclasses
from dataclasses import dataclass

from kws.errors import OptionError

WINDOW_TYPES = ("povey", "hamming", "hanning", "sine", "rectangular", "blackman")


@dataclass(frozen=True, kw_only=True)
class FbankOptions:
    """Log mel filter-bank energies. Lengths in ms, frequencies in Hz, waves in int16 units."""

    sample_frequency: float = 16000.0
    frame_length: float = 25.0
    frame_shift: float = 10.0
    dither: float = 0.0  # standard deviation of added noise, in int16 units; Kaldi's default is 1
    preemphasis_coefficient: float = 0.97
    remove_dc_offset: bool = True
    window_type: str = "povey"
    blackman_coeff: float = 0.42
    round_to_power_of_two: bool = True
    snip_edges: bool = True
    num_mel_bins: int = 23
    low_freq: float = 20.0
    high_freq: float = 0.0  # 0 or below counts down from the Nyquist frequency
    use_energy: bool = False
    energy_floor: float = 0.0
    raw_energy: bool = True
    htk_compat: bool = False
    use_log_fbank: bool = True
    use_power: bool = True

    def __post_init__(self):
        if self.window_type not in WINDOW_TYPES:
            raise OptionError(f"window_type={self.window_type!r}: choose one of {', '.join(WINDOW_TYPES)}")
        nyquist = self.sample_frequency / 2
        if not 0 <= self.low_freq < self.high_hz <= nyquist:
            raise OptionError(
                f"low_freq={self.low_freq} and high_freq={self.high_freq} mean {self.low_freq} to {self.high_hz} Hz;"
                f" expected 0 <= low < high <= {nyquist}"
            )
        if self.window_samples < 2 or self.shift_samples < 1:
            raise OptionError(
                f"frame_length={self.frame_length} ms and frame_shift={self.frame_shift} ms are too short"
            )
        if self.num_mel_bins < 3:
            raise OptionError(f"num_mel_bins={self.num_mel_bins}: at least 3 are needed")

    @property
    def high_hz(self) -> float:
        return self.high_freq if self.high_freq > 0 else self.sample_frequency / 2 + self.high_freq

    @property
    def window_samples(self) -> int:
        return int(self.sample_frequency * 0.001 * self.frame_length)

    @property
    def shift_samples(self) -> int:
        return int(self.sample_frequency * 0.001 * self.frame_shift)

    @property
    def fft_samples(self) -> int:
        n = self.window_samples
        return 1 << (n - 1).bit_length() if self.round_to_power_of_two else n + n % 2

    @property
    def dim(self) -> int:
        """Columns of a frame."""
        return self.num_mel_bins + self.use_energy


@dataclass(frozen=True, kw_only=True)
class MfccOptions(FbankOptions):
    """Mel-frequency cepstra. `use_log_fbank` and `use_power` are fixed, as in Kaldi."""

    use_energy: bool = True
    num_ceps: int = 13
    cepstral_lifter: float = 22.0

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.num_ceps <= self.num_mel_bins:
            raise OptionError(f"num_ceps={self.num_ceps}: expected 1 to num_mel_bins={self.num_mel_bins}")
        if not (self.use_log_fbank and self.use_power):
            raise OptionError("MFCC is taken of the log power spectrum: use_log_fbank and use_power stay true")

    @property
    def dim(self) -> int:
        return self.num_ceps


TYPES = {"fbank": FbankOptions, "mfcc": MfccOptions}


def make_options(type: str = "fbank", **options) -> FbankOptions:
    """Options of a feature type by name, with unknown names refused and the known ones listed."""
    if type not in TYPES:
        raise OptionError(f"feature type {type!r}: choose one of {', '.join(TYPES)}")
    known = {field.name for field in dataclasses.fields(TYPES[type])}
    if unknown := sorted(set(options) - known):
        raise OptionError(f"{type} has no option {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    return TYPES[type](**options)


def describe(options: FbankOptions) -> dict:
    """Plain values that `make_options(**...)` turns back into the same options: what a checkpoint carries."""
    kind = "mfcc" if isinstance(options, MfccOptions) else "fbank"
    return {"type": kind, **dataclasses.asdict(options)}
