//! How to get in.

use mesh::wire::request::Secret;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Access {
    /// The room's PIN.
    pub(in super::super) pin: Option<Secret>,
    /// A signed token.
    pub(in super::super) token: Option<Secret>,
    /// Janus's API secret.
    pub(in super::super) api_secret: Option<Secret>,
}

impl Access {
    /// Without the secrets, should Janus repeat them.
    pub(super) fn mask(&self, words: String) -> String {
        let secrets = [&self.pin, &self.token, &self.api_secret].into_iter().flatten().filter(|s| !s.0.is_empty());
        secrets.fold(words, |words, Secret(secret)| words.replace(secret, "<secret>"))
    }
}
