//! Fingerprints of certificates (RFC 8122): by which hash functions a relay may name its own.

use ring::digest::{Algorithm, SHA256, SHA384, SHA512, digest};

/// The hash functions that count, the strongest last; a relay that names only weaker ones cannot be told from another.
const KNOWN: [(&str, &Algorithm); 3] = [("sha-256", &SHA256), ("sha-384", &SHA384), ("sha-512", &SHA512)];

/// One certificate, as a description names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fingerprint {
    /// Which of [`KNOWN`].
    function: usize,
    value: Vec<u8>,
}

impl Fingerprint {
    /// What stands in `a=fingerprint:`; `None` where the hash function is none that counts, or the value is none of its length.
    pub(super) fn read(line: &str) -> Option<Self> {
        let (name, value) = line.trim().split_once(' ')?;
        let function = KNOWN.iter().position(|(known, _)| known.eq_ignore_ascii_case(name))?;
        let byte = |hex: &str| Some(hex).filter(|hex| hex.len() == 2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let value: Vec<u8> = value.trim().split(':').map(byte).collect::<Option<_>>()?;
        (value.len() == KNOWN[function].1.output_len()).then_some(Self { function, value })
    }

    /// Of all that a description names those by the strongest function: one certificate may be named by several (section 5).
    pub(super) fn strongest(mut all: Vec<Self>) -> Vec<Self> {
        let strongest = all.iter().map(|one| one.function).max();
        all.retain(|one| Some(one.function) == strongest);
        all
    }

    /// Whether it is that of this certificate.
    pub(super) fn is_of(&self, der: &[u8]) -> bool {
        digest(KNOWN[self.function].1, der).as_ref() == self.value
    }
}

/// SHA-256 of our own certificate, as in `a=fingerprint`.
pub(super) fn ours(der: &[u8]) -> String {
    let hash = digest(&SHA256, der);
    hash.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn line(name: &str, algorithm: &'static Algorithm, der: &[u8]) -> String {
        let hash = digest(algorithm, der);
        format!("{name} {}", hash.as_ref().iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":"))
    }

    #[test]
    fn a_certificate_is_known_by_each_function_that_counts() {
        for (name, algorithm) in KNOWN {
            let read = Fingerprint::read(&line(&name.to_uppercase(), algorithm, b"certificate")).unwrap();
            assert!(read.is_of(b"certificate") && !read.is_of(b"another"), "{name}");
        }
        let own = Fingerprint::read(&format!("sha-256 {}", ours(b"certificate"))).unwrap();
        assert!(own.is_of(b"certificate"));
    }

    #[test]
    fn what_is_weak_or_no_hash_counts_for_nothing() {
        let short = &line("sha-512", &SHA256, b"x");
        for bad in ["", "sha-256", "sha-256 AA:BB", "sha-1 AA", "sha-256 zz:zz", "sha-256 +1:+2", short] {
            assert_eq!(Fingerprint::read(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_the_strongest_of_several_counts() {
        let read = |name, algorithm, der: &[u8]| Fingerprint::read(&line(name, algorithm, der)).unwrap();
        let (weak, strong) = (read("sha-256", &SHA256, b"forged"), read("sha-512", &SHA512, b"certificate"));
        assert_eq!(Fingerprint::strongest(vec![weak.clone(), strong.clone()]), [strong]);
        assert_eq!(Fingerprint::strongest(vec![weak.clone()]), [weak]);
        assert_eq!(Fingerprint::strongest(vec![]), []);
    }
}
