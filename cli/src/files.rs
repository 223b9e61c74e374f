//! Files that are read whole, up to a length.

use std::{fs::File, io::Read, path::Path};

use anyhow::{Context, Result, ensure};

/// What `path` holds: a file, or a pipe such as `/dev/stdin`.
///
/// # Errors
/// It cannot be read, or holds more than `most` bytes; the error names it.
pub(crate) fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![];
    let read = File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
    read.with_context(|| format!("{}: cannot be read", path.display()))?;
    ensure!(bytes.len() as u64 <= most, "{}: longer than {most} bytes", path.display());
    Ok(bytes)
}

/// The same, of a text.
///
/// # Errors
/// As [`read`], and if it is not UTF-8.
pub(crate) fn read_text(path: &Path, most: u64) -> Result<String> {
    String::from_utf8(read(path, most)?).with_context(|| format!("{}: not UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_too_long_or_no_text_is_refused_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, b"1234\xff").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"1234\xff");
        let told = |result: Result<()>| result.unwrap_err().to_string();
        assert!(told(read(&path, 4).map(drop)).ends_with("x: longer than 4 bytes"));
        assert!(
            told(read("/dev/zero".as_ref(), 1 << 20).map(drop)).contains("/dev/zero: longer than"),
            "it has no end"
        );
        assert!(told(read_text(&path, 5).map(drop)).ends_with("x: not UTF-8"));
        assert!(told(read(&dir.path().join("y"), 5).map(drop)).ends_with("y: cannot be read"));
    }
}
