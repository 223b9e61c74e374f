//! Speech engines on this machine, by what `./dev model` fetches: a ggml file is Whisper's, a folder is Moonshine's.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use core_node::transcribe::{
    Transcriber,
    sherpa::{self, Family, Sherpa},
    whisper::{self, Whisper},
};

/// Moonshine's files, by what they are.
const MOONSHINE: [(&str, &str); 2] = [("encoder", "encoder_model.ort"), ("merged_decoder", "decoder_model_merged.ort")];
/// From such a folder to the library, where `./dev` has fetched both.
const LIBRARY: &str = "../../sherpa-onnx/lib/libsherpa-onnx-c-api.so";

/// Loads the engine of `model`; `threads` for each clip.
///
/// # Errors
/// There is no such model, or it cannot be used.
pub fn load(model: &Path, threads: u16) -> Result<Arc<dyn Transcriber>> {
    let missing = "no speech model: run ./dev model, or name one with --model";
    if model.is_dir() {
        return Ok(Arc::new(Sherpa::load(&moonshine(model, threads)).context(missing)?));
    }
    let settings = whisper::Settings { model: model.to_owned(), threads };
    Ok(Arc::new(Whisper::load(&settings).context(missing)?))
}

/// The lines of a core's `[transcribe]` for the engine of `model`, and those of sections behind it.
pub fn configuration(model: &Path, workers: usize) -> String {
    if !model.is_dir() {
        return format!("\n[transcribe]\nmodel = \"{}\"\nworkers = {workers}\n", model.display());
    }
    let sherpa::Settings { library, files, tokens, .. } = moonshine(model, 1);
    let library = library.map(|library| format!("library = \"{}\"\n", library.display())).unwrap_or_default();
    let files: Vec<String> = files.iter().map(|(role, path)| format!("{role} = \"{}\"", path.display())).collect();
    format!(
        "\n[transcribe]\nengine = \"sherpa\"\nworkers = {workers}\n\n[transcribe.sherpa]\n{library}\
         family = \"moonshine\"\nfiles = {{ {} }}\ntokens = \"{}\"\nlanguages = [\"en\"]\n",
        files.join(", "),
        tokens.display()
    )
}

fn moonshine(folder: &Path, threads: u16) -> sherpa::Settings {
    let file = |name: &str| -> PathBuf { folder.join(name) };
    let library = folder.join(LIBRARY);
    sherpa::Settings {
        library: library.exists().then_some(library),
        family: Family::Moonshine,
        files: MOONSHINE.iter().map(|(role, name)| ((*role).to_owned(), file(name))).collect::<BTreeMap<_, _>>(),
        tokens: file("tokens.txt"),
        languages: vec!["en".into()],
        threads,
    }
}
