//! When certificate files that have changed are fit to be taken up.
//!
//! A rotation writes several files, one after the other, and each of them maybe in pieces. So what was read counts
//! only once it is read a second time unchanged; what was refused is not tried again until it changes; and a wish
//! of the operator's (SIGHUP) tries at once.

/// What two reads in a row have to say about files whose content is `P`.
///
/// ```text
///            changed           the same again              taken
///   in use ──────────▶ pending ──────────────▶ to be tried ──────▶ in use
///     ▲                   │ ▲                       │
///     └── changed back ───┘ └────── changed ──── refused
/// ```
#[derive(Debug)]
pub struct Rotation<P> {
    in_use: P,
    pending: Option<P>,
    refused: Option<P>,
}

impl<P: PartialEq + Clone> Rotation<P> {
    /// For a node that runs with `in_use`.
    pub fn new(in_use: P) -> Self {
        Self { in_use, pending: None, refused: None }
    }

    /// Takes what was read, `at_once` if somebody wants it tried now. What it returns is to be tried, and the outcome
    /// given to [`Rotation::handle_taken`] or [`Rotation::handle_refused`].
    pub fn handle_read(&mut self, read: P, at_once: bool) -> Option<P> {
        if read == self.in_use {
            (self.pending, self.refused) = (None, None);
            return None;
        }
        if at_once || self.pending.as_ref() == Some(&read) {
            self.pending = None;
            let again = self.refused.as_ref() == Some(&read);
            return (at_once || !again).then_some(read);
        }
        if self.refused.as_ref() != Some(&read) {
            self.pending = Some(read);
        }
        None
    }

    /// The node runs with `taken` from now on.
    pub fn handle_taken(&mut self, taken: P) {
        *self = Self::new(taken);
    }

    /// `refused` was no good: what was in use stays.
    pub fn handle_refused(&mut self, refused: P) {
        self.refused = Some(refused);
    }

    /// Whether the files hold something that was refused.
    pub fn is_refused(&self) -> bool {
        self.refused.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_still_being_written_is_not_tried() {
        let mut rotation = Rotation::new("old");
        assert_eq!(rotation.handle_read("half", false), None);
        assert_eq!(rotation.handle_read("whole", false), None);
        assert_eq!(rotation.handle_read("whole", false), Some("whole"));
        rotation.handle_taken("whole");
        assert_eq!(rotation.handle_read("whole", true), None);
    }

    #[test]
    fn what_was_refused_is_tried_again_only_on_demand_or_after_a_change() {
        let mut rotation = Rotation::new("old");
        assert_eq!(rotation.handle_read("bad", true), Some("bad"));
        rotation.handle_refused("bad");
        assert!(rotation.is_refused());
        assert_eq!((rotation.handle_read("bad", false), rotation.handle_read("bad", false)), (None, None));
        assert_eq!(rotation.handle_read("bad", true), Some("bad"));
        rotation.handle_refused("bad");
        assert_eq!((rotation.handle_read("good", false), rotation.handle_read("good", false)), (None, Some("good")));
    }

    #[test]
    fn files_put_back_as_they_were_are_no_news() {
        let mut rotation = Rotation::new("old");
        assert_eq!(rotation.handle_read("bad", true), Some("bad"));
        rotation.handle_refused("bad");
        assert_eq!(rotation.handle_read("old", false), None);
        assert!(!rotation.is_refused());
    }
}
