//! A source's URL.

use super::error::{ConnectError, cut};

/// `url`, if it is one of `schemes` with a host.
pub(super) fn parse_url(url: &str, schemes: [&str; 2], wanted: &'static str) -> Result<reqwest::Url, ConnectError> {
    let bad = |shown: String, why: &str| ConnectError::Source { url: shown, wanted, why: why.into() };
    // What is no URL may have credentials anywhere: only its beginning is shown, if that is a scheme.
    let scheme =
        |url: &str| url.split_once("://").map_or_else(|| "it".into(), |(scheme, _)| format!("{}://", cut(scheme, 10)));
    let parsed = reqwest::Url::parse(url).map_err(|e| bad(scheme(url), &e.to_string()))?;
    let shown = || format!("{}://{}", parsed.scheme(), parsed.host_str().unwrap_or_default());
    if !schemes.contains(&parsed.scheme()) {
        return Err(bad(shown(), "the scheme is another"));
    }
    if parsed.host_str().is_none_or(str::is_empty) {
        return Err(bad(shown(), "it names no host"));
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_url_with_credentials_is_not_repeated_in_the_error() {
        let error = parse_url("ftp://user:hunter2@host/p?key=hunter2", ["ws", "wss"], "ws").unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        for none in ["wss://user:hunter2@host:99999", "user:hunter2@host", "hunter2"] {
            let error = parse_url(none, ["ws", "wss"], "ws").unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
