//! A page of the documentation, taken apart.

use std::{
    fs,
    path::{Path, PathBuf},
};

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};

/// Where pages are looked for, from the repository's root; of the root itself only its own files.
const PLACES: [&str; 5] = ["docs", "deploy", "bench", "edge-node", "geo"];
/// Folders in which nothing is ours.
const FOREIGN: [&str; 3] = ["target", "node_modules", "run"];

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A piece of text and the line it is in.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) line: usize,
    pub(crate) text: String,
}

/// One page.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// From the root.
    pub(crate) path: PathBuf,
    /// Where its links lead.
    pub(crate) links: Vec<Span>,
    /// What stands in backticks, and the modules that pictures name.
    pub(crate) spans: Vec<Span>,
    /// Blocks of shell commands.
    pub(crate) scripts: Vec<Span>,
    /// Its headings as links name them.
    pub(crate) anchors: Vec<String>,
}

impl Page {
    /// The page at `path`, from the root.
    pub(crate) fn read(path: &Path) -> Self {
        let text = fs::read_to_string(root().join(path)).unwrap();
        let mut page = Self { path: path.into(), ..Self::default() };
        let line = |at: usize| text[..at].matches('\n').count() + 1;
        let (mut heading, mut block) = (None::<String>, None::<(String, String)>);
        for (event, at) in Parser::new_ext(&text, Options::ENABLE_TABLES).into_offset_iter() {
            let line = line(at.start);
            match event {
                Event::Start(Tag::Heading { level, .. }) if level >= HeadingLevel::H1 => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => page.heading(&heading.take().unwrap_or_default()),
                Event::Start(Tag::Link { dest_url, .. }) => {
                    page.links.push(Span { line, text: dest_url.into_string() })
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                    block = Some((language.into_string(), String::new()));
                }
                Event::End(TagEnd::CodeBlock) => match block.take() {
                    Some((language, text)) if language == "sh" => page.scripts.push(Span { line, text }),
                    Some((language, text)) if language == "text" => {
                        let modules = text.split_whitespace().filter(|word| word.contains("::"));
                        page.spans.extend(modules.map(|word| Span { line, text: word.to_owned() }));
                    }
                    _ => {}
                },
                Event::Code(code) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&code);
                    }
                    page.spans.push(Span { line, text: code.into_string() });
                }
                Event::Text(text) => {
                    if let Some(open) = heading.as_mut().or(block.as_mut().map(|(_, text)| text)) {
                        open.push_str(&text);
                    }
                }
                _ => {}
            }
        }
        page
    }

    /// As GitHub makes anchors: lower case, hyphens for spaces, no other punctuation, numbers for what comes again.
    fn heading(&mut self, text: &str) {
        let kept = text.to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let before = self.anchors.iter().filter(|other| **other == anchor).count();
        self.anchors.push(if before == 0 { anchor } else { format!("{anchor}-{before}") });
    }

    /// Where something is, for a complaint.
    pub(crate) fn at(&self, span: &Span) -> String {
        format!("{}:{}", self.path.display(), span.line)
    }
}

/// All pages.
pub(crate) fn pages() -> Vec<Page> {
    let mut paths: Vec<PathBuf> = files(Path::new("")).into_iter().filter(|path| !root().join(path).is_dir()).collect();
    for place in PLACES {
        walk(Path::new(place), &mut paths);
    }
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "md"));
    assert!(paths.len() > 15, "{paths:?}");
    paths.iter().map(|path| Page::read(path)).collect()
}

fn walk(folder: &Path, paths: &mut Vec<PathBuf>) {
    for path in files(folder) {
        let name = path.file_name().unwrap().to_string_lossy();
        match root().join(&path).is_dir() {
            true if name.starts_with('.') || FOREIGN.contains(&&*name) => {}
            true => walk(&path, paths),
            false => paths.push(path),
        }
    }
}

/// What is in a folder, from the root, in order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).unwrap().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| folder.join(entry.file_name())).collect();
    files.sort();
    files
}
