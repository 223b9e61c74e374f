//! The C library of `sherpa-onnx`, opened when the program runs.
//!
//! Its own crate links it, and builds an archive reader of forty crates to fetch it. What is here is as much of its
//! `c-api.h` (version 2.0, Apache-2.0) as is used.

#![allow(unsafe_code, reason = "a C library")]

use std::{
    error::Error,
    ffi::{CStr, CString, c_char, c_float, c_int},
    path::Path,
    ptr,
};

use libloading::Library;

/// The version of which the layouts below are.
const VERSION: &str = "2.0.";

type Str = *const c_char;

/// `SherpaOnnxOfflineModelConfig`. An absent string is null.
#[repr(C)]
pub(super) struct Model {
    /// Encoder, decoder, joiner.
    pub(super) transducer: [Str; 3],
    pub(super) paraformer: Str,
    pub(super) nemo_ctc: Str,
    pub(super) whisper: Whisper,
    tdnn: Str,
    pub(super) tokens: Str,
    pub(super) num_threads: c_int,
    debug: c_int,
    pub(super) provider: Str,
    pub(super) model_type: Str,
    modeling_unit: Str,
    bpe_vocab: Str,
    telespeech_ctc: Str,
    pub(super) sense_voice: SenseVoice,
    /// Preprocessor, encoder, uncached decoder, cached decoder, merged decoder.
    pub(super) moonshine: [Str; 5],
    /// Encoder, decoder.
    pub(super) fire_red_asr: [Str; 2],
    pub(super) dolphin: Str,
    pub(super) zipformer_ctc: Str,
    pub(super) canary: Canary,
    pub(super) wenet_ctc: Str,
    omnilingual: Str,
    medasr: Str,
    funasr_nano: FunAsrNano,
    fire_red_asr_ctc: Str,
    qwen3_asr: Qwen3Asr,
    cohere_transcribe: Cohere,
}

#[repr(C)]
pub(super) struct Whisper {
    pub(super) encoder: Str,
    pub(super) decoder: Str,
    pub(super) language: Str,
    pub(super) task: Str,
    pub(super) tail_paddings: c_int,
    pub(super) token_timestamps: c_int,
    pub(super) segment_timestamps: c_int,
}

#[repr(C)]
pub(super) struct SenseVoice {
    pub(super) model: Str,
    pub(super) language: Str,
    pub(super) use_itn: c_int,
}

#[repr(C)]
pub(super) struct Canary {
    pub(super) encoder: Str,
    pub(super) decoder: Str,
    pub(super) src_lang: Str,
    pub(super) tgt_lang: Str,
    pub(super) use_pnc: c_int,
}

#[repr(C)]
struct FunAsrNano {
    files_and_prompts: [Str; 6],
    max_new_tokens: c_int,
    temperature: c_float,
    top_p: c_float,
    seed: c_int,
    language: Str,
    itn: c_int,
    hotwords: Str,
}

#[repr(C)]
struct Qwen3Asr {
    files: [Str; 4],
    max_total_len: c_int,
    max_new_tokens: c_int,
    temperature: c_float,
    top_p: c_float,
    seed: c_int,
    hotwords: Str,
}

#[repr(C)]
struct Cohere {
    files_and_language: [Str; 3],
    use_punct: c_int,
    use_itn: c_int,
}

/// `SherpaOnnxOfflineRecognizerConfig`.
#[repr(C)]
pub(super) struct Config {
    sample_rate: c_int,
    feature_dim: c_int,
    pub(super) model: Model,
    lm: Str,
    lm_scale: c_float,
    decoding_method: Str,
    max_active_paths: c_int,
    hotwords_file: Str,
    hotwords_score: c_float,
    rule_fsts: Str,
    rule_fars: Str,
    blank_penalty: c_float,
    homophones: [Str; 3],
    fst_graph: Str,
    fst_max_active: c_int,
}

/// The strings of a [`Config`]: they are to live until it is used.
#[derive(Default)]
pub(super) struct Strings(Vec<CString>);

#[repr(C)]
struct RecognizerHandle([u8; 0]);
#[repr(C)]
struct StreamHandle([u8; 0]);

/// A model that is loaded.
pub(super) struct Recognizer {
    functions: Functions,
    handle: *const RecognizerHandle,
    /// Last: what is above is of it.
    _library: Library,
}

struct Functions {
    destroy_recognizer: unsafe extern "C" fn(*const RecognizerHandle),
    create_stream: unsafe extern "C" fn(*const RecognizerHandle) -> *const StreamHandle,
    destroy_stream: unsafe extern "C" fn(*const StreamHandle),
    accept_waveform: unsafe extern "C" fn(*const StreamHandle, c_int, *const c_float, c_int),
    decode: unsafe extern "C" fn(*const RecognizerHandle, *const StreamHandle),
    result: unsafe extern "C" fn(*const StreamHandle) -> Str,
    destroy_result: unsafe extern "C" fn(Str),
}

// SAFETY: decoding takes the recognizer as constant and keeps its state in the stream, of which each call makes its own.
unsafe impl Send for Recognizer {}
unsafe impl Sync for Recognizer {}

impl Strings {
    /// `None` is a null pointer, and so is a string with a zero byte in it: no file has such a name.
    pub(super) fn keep(&mut self, text: Option<&str>) -> Str {
        let Some(text) = text.and_then(|text| CString::new(text).ok()) else { return ptr::null() };
        // What it points to does not move with the vector.
        let at = text.as_ptr();
        self.0.push(text);
        at
    }
}

impl Config {
    /// As the library's own examples have it, without a model.
    pub(super) fn new() -> Self {
        // SAFETY: numbers and pointers, for all of which zero is a value.
        let mut config: Self = unsafe { std::mem::zeroed() };
        (config.sample_rate, config.feature_dim) = (super::super::SAMPLE_RATE as c_int, 80);
        (config.max_active_paths, config.fst_max_active) = (4, 3000);
        config
    }
}

impl Recognizer {
    /// Opens the library and loads a model.
    ///
    /// # Errors
    /// The library's file is not there, is none or of another version; or, by `Ok(None)`, the library refuses the model.
    pub(super) fn load(path: &Path, config: &Config, _strings: &Strings) -> Result<Option<Self>, String> {
        // SAFETY: the operator names the file, as he does this program's.
        let library = unsafe { Library::new(path) }.map_err(told)?;
        // SAFETY: types as `c-api.h` has them; the version is checked before anything else is called.
        unsafe {
            let version = library.get::<unsafe extern "C" fn() -> Str>(b"SherpaOnnxGetVersionStr\0").map_err(told)?;
            let version = CStr::from_ptr(version()).to_string_lossy().into_owned();
            if !version.starts_with(VERSION) {
                return Err(format!("version {version}, but {VERSION}x is needed"));
            }
            let functions = Functions {
                destroy_recognizer: *library.get(b"SherpaOnnxDestroyOfflineRecognizer\0").map_err(told)?,
                create_stream: *library.get(b"SherpaOnnxCreateOfflineStream\0").map_err(told)?,
                destroy_stream: *library.get(b"SherpaOnnxDestroyOfflineStream\0").map_err(told)?,
                accept_waveform: *library.get(b"SherpaOnnxAcceptWaveformOffline\0").map_err(told)?,
                decode: *library.get(b"SherpaOnnxDecodeOfflineStream\0").map_err(told)?,
                result: *library.get(b"SherpaOnnxGetOfflineStreamResultAsJson\0").map_err(told)?,
                destroy_result: *library.get(b"SherpaOnnxDestroyOfflineStreamResultJson\0").map_err(told)?,
            };
            let create = library
                .get::<unsafe extern "C" fn(*const Config) -> *const RecognizerHandle>(
                    b"SherpaOnnxCreateOfflineRecognizer\0",
                )
                .map_err(told)?;
            let handle = create(config);
            Ok((!handle.is_null()).then(|| Self { functions, handle, _library: library }))
        }
    }

    /// What is said in `samples` (16 kHz, mono), as the library's JSON; `None` if it gives none.
    pub(super) fn decode(&self, samples: &[f32]) -> Option<String> {
        let functions = &self.functions;
        let count = c_int::try_from(samples.len()).ok()?;
        // SAFETY: the recognizer lives; the stream is used here alone and destroyed once; the samples are copied.
        unsafe {
            let stream = (functions.create_stream)(self.handle);
            if stream.is_null() {
                return None;
            }
            (functions.accept_waveform)(stream, super::super::SAMPLE_RATE as c_int, samples.as_ptr(), count);
            (functions.decode)(self.handle, stream);
            let result = (functions.result)(stream);
            let json = (!result.is_null()).then(|| CStr::from_ptr(result).to_string_lossy().into_owned());
            if !result.is_null() {
                (functions.destroy_result)(result);
            }
            (functions.destroy_stream)(stream);
            json
        }
    }
}

/// What the system's loader says is behind libloading's own words.
fn told(error: libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

impl Drop for Recognizer {
    fn drop(&mut self) {
        // SAFETY: made by the same library, and gone with this.
        unsafe { (self.functions.destroy_recognizer)(self.handle) }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    /// As a C compiler lays out version 2.0.1's `c-api.h` on 64-bit Linux.
    #[test]
    #[cfg(target_pointer_width = "64")]
    fn the_layout_is_that_of_the_header() {
        let model = [
            (offset_of!(Model, paraformer), 24),
            (offset_of!(Model, whisper), 40),
            (offset_of!(Model, tokens), 96),
            (offset_of!(Model, num_threads), 104),
            (offset_of!(Model, provider), 112),
            (offset_of!(Model, model_type), 120),
            (offset_of!(Model, sense_voice), 152),
            (offset_of!(Model, moonshine), 176),
            (offset_of!(Model, fire_red_asr), 216),
            (offset_of!(Model, dolphin), 232),
            (offset_of!(Model, zipformer_ctc), 240),
            (offset_of!(Model, canary), 248),
            (offset_of!(Model, wenet_ctc), 288),
            (offset_of!(Model, funasr_nano), 312),
            (offset_of!(Model, fire_red_asr_ctc), 400),
            (offset_of!(Model, qwen3_asr), 408),
            (offset_of!(Model, cohere_transcribe), 472),
            (size_of::<Model>(), 504),
        ];
        let config = [
            (offset_of!(Config, model), 8),
            (offset_of!(Config, lm), 512),
            (offset_of!(Config, decoding_method), 528),
            (offset_of!(Config, max_active_paths), 536),
            (offset_of!(Config, rule_fsts), 560),
            (offset_of!(Config, blank_penalty), 576),
            (offset_of!(Config, homophones), 584),
            (offset_of!(Config, fst_graph), 608),
            (size_of::<Config>(), 624),
        ];
        for (ours, header) in model.into_iter().chain(config) {
            assert_eq!(ours, header);
        }
    }

    #[test]
    fn a_file_that_is_no_library_is_an_error() {
        let load = |path: &Path| Recognizer::load(path, &Config::new(), &Strings::default()).err().unwrap_or_default();
        assert!(load(Path::new("/nowhere/lib.so")).contains("/nowhere/lib.so"));
        assert!(load(Path::new("libc.so.6")).contains("SherpaOnnxGetVersionStr"));
    }
}
