//! Whether an engine makes words of anything: by what it answered of late. Pure.

use super::TranscribeError;

/// So many clips in a row without an answer are no chance.
const ENOUGH: u32 = 3;

/// What an engine has said since it last made words.
#[derive(Debug, Default)]
pub(super) struct Health {
    failures: u32,
    last: Option<TranscribeError>,
}

impl Health {
    /// An answer, or why there was none.
    pub(super) fn handle(&mut self, answer: Result<(), &TranscribeError>) {
        match answer {
            Ok(()) => *self = Self::default(),
            // The clip's fault, or the end of this program.
            Err(TranscribeError::Clip(_) | TranscribeError::Closed) => {}
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                self.last = Some(error.clone());
            }
        }
    }

    /// Why it makes no words, as it says itself, if it makes none.
    pub(super) fn refusal(&self) -> Option<String> {
        self.last.as_ref().filter(|_| self.failures >= ENOUGH).map(ToString::to_string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_ill_after_some_failures_in_a_row_and_well_with_the_first_answer() {
        let wrong_key = TranscribeError::Status { engine: "openai", status: 401, cause: "the key is wrong".into() };
        let mut health = Health::default();
        for _ in 1..ENOUGH {
            health.handle(Err(&wrong_key));
        }
        for _ in 0..9 {
            health.handle(Err(&TranscribeError::Clip("too long".into())));
        }
        assert_eq!(health.refusal(), None);
        health.handle(Err(&wrong_key));
        assert_eq!(health.refusal().as_deref(), Some("openai answered 401: the key is wrong"));
        health.handle(Ok(()));
        assert_eq!(health.refusal(), None);
    }
}
