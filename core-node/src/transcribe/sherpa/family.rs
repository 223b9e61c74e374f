//! Which models there are, and which files each takes.

use std::fmt;

use serde::Deserialize;

/// A kind of model. Names as `sherpa-onnx` has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Moonshine, versions 1 and 2.
    Moonshine,
    /// Transducers: Zipformer, Conformer.
    Transducer,
    /// NeMo's transducers: Parakeet TDT and RNN-T.
    NemoTransducer,
    /// NeMo's CTC models.
    NemoCtc,
    /// Zipformer with CTC.
    ZipformerCtc,
    /// WeNet's CTC models.
    WenetCtc,
    /// Paraformer.
    Paraformer,
    /// SenseVoice.
    SenseVoice,
    /// Dolphin, CTC.
    Dolphin,
    /// FireRedASR.
    FireRedAsr,
    /// Whisper as ONNX.
    Whisper,
    /// NeMo Canary.
    Canary,
}

impl Family {
    /// The sets of files that it can be made of, each file by its role.
    pub fn files(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::Moonshine => {
                &[&["encoder", "merged_decoder"], &["preprocessor", "encoder", "uncached_decoder", "cached_decoder"]]
            }
            Self::Transducer | Self::NemoTransducer => &[&["encoder", "decoder", "joiner"]],
            Self::FireRedAsr | Self::Whisper | Self::Canary => &[&["encoder", "decoder"]],
            Self::NemoCtc
            | Self::ZipformerCtc
            | Self::WenetCtc
            | Self::Paraformer
            | Self::SenseVoice
            | Self::Dolphin => &[&["model"]],
        }
    }

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Moonshine => "moonshine",
            Self::Transducer => "transducer",
            Self::NemoTransducer => "nemo_transducer",
            Self::NemoCtc => "nemo_ctc",
            Self::ZipformerCtc => "zipformer_ctc",
            Self::WenetCtc => "wenet_ctc",
            Self::Paraformer => "paraformer",
            Self::SenseVoice => "sense_voice",
            Self::Dolphin => "dolphin",
            Self::FireRedAsr => "fire_red_asr",
            Self::Whisper => "whisper",
            Self::Canary => "canary",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
