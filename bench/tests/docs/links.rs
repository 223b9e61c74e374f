//! Links within the repository: their files, and the headings in them.

use std::path::{Component, Path, PathBuf};

use crate::page::{Page, root};

/// Complaints about a page's links.
pub(crate) fn broken(page: &Page) -> Vec<String> {
    let folder = page.path.parent().unwrap_or(Path::new(""));
    let ours = page.links.iter().filter(|link| !link.text.contains("://"));
    let wrong = |link: &str| {
        let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
        let path = if file.is_empty() { page.path.clone() } else { plain(&folder.join(file)) };
        if !root().join(&path).exists() {
            return Some("there is no such file");
        }
        let anchor = anchor?;
        (!Page::read(&path).anchors.iter().any(|known| known == anchor)).then_some("it has no such heading")
    };
    ours.filter_map(|link| Some(format!("{}: {}: {}", page.at(link), link.text, wrong(&link.text)?))).collect()
}

/// Without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => _ = plain.pop(),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

#[test]
fn a_link_to_nowhere_is_told() {
    let link = |text: &str| Page {
        path: "docs/api.md".into(),
        links: vec![crate::page::Span { line: 1, text: text.into() }],
        ..Page::default()
    };
    assert_eq!(broken(&link("nothing.md")).len(), 1);
    assert_eq!(broken(&link("../README.md#nothing")).len(), 1);
    assert_eq!(broken(&link("../README.md#try-it")), Vec::<String>::new());
}
