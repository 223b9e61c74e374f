//! `[hooks]`: what platforms may tell this core.

use std::sync::Arc;

use mesh::{config::Checks, wire::request::Secret};
use serde::Deserialize;

use crate::api::hooks::Zoom;

/// The longest id or secret, in bytes.
const MAX_TEXT: usize = 256;
/// Names of places, at most.
const MAX_PLACES: usize = 32;

/// `[hooks]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HooksSection {
    /// Zoom; absent: it is not heard.
    pub zoom: Option<ZoomSection>,
}

/// `[hooks.zoom]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZoomSection {
    /// The app's id.
    pub client_id: String,
    /// The app's secret.
    pub client_secret: Secret,
    /// What Zoom signs its webhooks with.
    pub secret_token: Secret,
    /// Residency groups or regions that may touch the meetings; empty: all.
    #[serde(default)]
    pub residency: Vec<String>,
    /// What is spoken, ISO 639; absent: as the core is set.
    pub language: Option<String>,
}

impl HooksSection {
    /// Whose streams Zoom may tell of.
    pub fn zoom(&self) -> Option<Arc<Zoom>> {
        let ZoomSection { client_id, client_secret, secret_token, residency, language } = self.zoom.clone()?;
        Some(Arc::new(Zoom { client_id, client_secret, secret_token, residency, language }))
    }

    pub(super) fn check(&self, checks: &mut Checks<'_>) {
        let Some(zoom) = &self.zoom else { return };
        for (key, text) in [
            ("hooks.zoom.client_id", &zoom.client_id),
            ("hooks.zoom.client_secret", &zoom.client_secret.0),
            ("hooks.zoom.secret_token", &zoom.secret_token.0),
        ] {
            checks.ensure(key, (1..=MAX_TEXT).contains(&text.len()), "1 to 256 bytes long");
        }
        checks.ensure("hooks.zoom.residency", zoom.residency.len() <= MAX_PLACES, "at most 32 names");
        let code = |l: &String| (2..=3).contains(&l.len()) && l.bytes().all(|b| b.is_ascii_lowercase());
        let language = zoom.language.as_ref().is_none_or(code);
        checks.ensure("hooks.zoom.language", language, "an ISO 639 code such as `en`, or absent");
    }
}
