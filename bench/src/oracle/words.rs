//! Words made comparable, and the least number of errors between two rows of them.

use std::ops::AddAssign;

/// Spoken forms of what is written in figures.
const FIGURES: [&str; 13] =
    ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];

/// Word errors, as counted for the word error rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Errors {
    /// Words said.
    pub words: usize,
    /// Heard as another word.
    pub substitutions: usize,
    /// Not heard.
    pub deletions: usize,
    /// Heard but not said.
    pub insertions: usize,
}

/// One step of the way from a row of words to another, by their places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Left and right agree.
    Same(usize, usize),
    /// Right has another word.
    Other(usize, usize),
    /// Right lacks the left one.
    Missing(usize),
    /// Right has one more.
    Extra(usize),
}

impl Errors {
    /// Errors of all kinds.
    pub fn total(self) -> usize {
        self.substitutions + self.deletions + self.insertions
    }

    /// Errors per word said; 0 if nothing was said and nothing heard, else at least a whole word is taken as said.
    pub fn rate(self) -> f64 {
        self.total() as f64 / self.words.max(1) as f64
    }

    /// Adds those of another part.
    pub fn add(&mut self, other: Self) {
        *self += other;
    }
}

impl AddAssign for Errors {
    fn add_assign(&mut self, other: Self) {
        self.words += other.words;
        self.substitutions += other.substitutions;
        self.deletions += other.deletions;
        self.insertions += other.insertions;
    }
}

/// The words of `text` without what two correct spellings may differ in: case, punctuation, figures
/// up to twelve, signs read aloud, and words written both as one and as two.
pub fn normalise(text: &str) -> Vec<String> {
    let plain: String = text.to_lowercase().replace('’', "'").chars().map(spoken).collect();
    let mut words: Vec<String> = vec![];
    for word in plain.split_whitespace().map(|word| word.trim_matches('\'')).filter(|word| !word.is_empty()) {
        let word = match (words.last().map(String::as_str), word) {
            (Some("e" | "voice"), "mail") | (Some("mail"), "box") | (Some("touch"), "tone") => {
                words.pop().unwrap_or_default() + word
            }
            (Some("key"), "pad" | "words") => words.pop().unwrap_or_default() + word,
            (_, "ok") => "okay".to_owned(),
            (_, word) => match word.parse::<usize>().ok().and_then(|number| FIGURES.get(number)) {
                Some(figure) => (*figure).to_owned(),
                None => word.to_owned(),
            },
        };
        words.push(word);
    }
    words
}

/// Letters, figures and apostrophes stay, signs are read aloud, the rest separates words.
fn spoken(c: char) -> String {
    match c {
        '#' => " pound ".to_owned(),
        '*' => " star ".to_owned(),
        '&' => " and ".to_owned(),
        '%' => " percent ".to_owned(),
        c if c.is_alphanumeric() || c == '\'' => c.to_string(),
        _ => " ".to_owned(),
    }
}

/// The errors between two rows of normalised words.
pub fn compare(said: &[String], heard: &[String]) -> Errors {
    let (left, right): (Vec<&str>, Vec<&str>) =
        (said.iter().map(String::as_str).collect(), heard.iter().map(String::as_str).collect());
    let mut errors = Errors { words: said.len(), ..Errors::default() };
    for step in steps(&left, &right) {
        match step {
            Step::Same(..) => {}
            Step::Other(..) => errors.substitutions += 1,
            Step::Missing(_) => errors.deletions += 1,
            Step::Extra(_) => errors.insertions += 1,
        }
    }
    errors
}

/// A shortest way from `left` to `right` (Levenshtein), in order.
pub fn steps(left: &[&str], right: &[&str]) -> Vec<Step> {
    let width = right.len() + 1;
    let mut cost = vec![0usize; (left.len() + 1) * width];
    for i in 0..=left.len() {
        for j in 0..=right.len() {
            cost[i * width + j] = match (i, j) {
                (0, _) => j,
                (_, 0) => i,
                _ => {
                    let change = usize::from(left[i - 1] != right[j - 1]);
                    let across = cost[(i - 1) * width + j - 1] + change;
                    across.min(cost[(i - 1) * width + j] + 1).min(cost[i * width + j - 1] + 1)
                }
            };
        }
    }
    let (mut i, mut j, mut way) = (left.len(), right.len(), vec![]);
    while i > 0 || j > 0 {
        let here = cost[i * width + j];
        let same = i > 0 && j > 0 && left[i - 1] == right[j - 1];
        if i > 0 && j > 0 && cost[(i - 1) * width + j - 1] + usize::from(!same) == here {
            (i, j) = (i - 1, j - 1);
            way.push(if same { Step::Same(i, j) } else { Step::Other(i, j) });
        } else if i > 0 && cost[(i - 1) * width + j] + 1 == here {
            i -= 1;
            way.push(Step::Missing(i));
        } else {
            j -= 1;
            way.push(Step::Extra(j));
        }
    }
    way.reverse();
    way
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn errors(said: &str, heard: &str) -> (usize, usize, usize) {
        let e = compare(&normalise(said), &normalise(heard));
        (e.substitutions, e.deletions, e.insertions)
    }

    #[test]
    fn spelling_is_no_error() {
        for (said, heard) in [
            ("Press 1, or #.", "press one or pound"),
            ("OK, e-mail me!", "okay email me"),
            ("Re-enter your voice mail", "re enter your voicemail"),
            ("I’m here...", "I'm here"),
            ("'hello' 12 & *", "Hello twelve and star"),
        ] {
            assert_eq!(errors(said, heard), (0, 0, 0), "{said} | {heard}");
        }
    }

    #[test]
    fn errors_are_of_three_kinds() {
        assert_eq!(errors("a b c d", "a x c"), (1, 1, 0));
        assert_eq!(errors("a b", "a b c d"), (0, 0, 2));
        assert_eq!(errors("", "a"), (0, 0, 1));
        let half = Errors { words: 4, substitutions: 1, deletions: 1, insertions: 0 };
        assert_eq!(half.rate(), 0.5);
    }

    proptest! {
        #[test]
        fn the_way_leads_from_left_to_right(left in "[abc ]{0,40}", right in "[abc ]{0,40}") {
            let (left, right): (Vec<&str>, Vec<&str>) =
                (left.split_whitespace().collect(), right.split_whitespace().collect());
            let (mut i, mut j, mut wrong) = (0, 0, 0);
            for step in steps(&left, &right) {
                match step {
                    Step::Same(a, b) => { prop_assert_eq!((a, b, left[a]), (i, j, right[b])); i += 1; j += 1; }
                    Step::Other(a, b) => { prop_assert_eq!((a, b), (i, j)); i += 1; j += 1; wrong += 1; }
                    Step::Missing(a) => { prop_assert_eq!(a, i); i += 1; wrong += 1; }
                    Step::Extra(b) => { prop_assert_eq!(b, j); j += 1; wrong += 1; }
                }
            }
            prop_assert_eq!((i, j), (left.len(), right.len()));
            prop_assert!(wrong >= left.len().abs_diff(right.len()) && wrong <= left.len().max(right.len()));
        }

        #[test]
        fn normalising_twice_changes_nothing(text in "\\PC{0,60}") {
            let once = normalise(&text);
            prop_assert_eq!(normalise(&once.join(" ")), once);
        }
    }
}
