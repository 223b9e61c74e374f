//! What kind of fault kept us from a relay, by the errors of whatever library met it.

use std::{error::Error, io};

use mesh::wire::cause::Cause;

use crate::egress::{Denied, NoAddress};

/// Which kind it is.
pub(super) fn of(error: &(dyn Error + 'static)) -> Cause {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(cause) = kind(error) {
            return cause;
        }
        next = within(error);
    }
    Cause::RelayUnreachable
}

/// Whether it is that our own client does not go there.
pub(super) fn denied<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Denied> {
    match error.downcast_ref::<NoAddress>() {
        Some(NoAddress::Denied(denied)) => Some(denied),
        _ => error.downcast_ref(),
    }
}

fn kind(error: &(dyn Error + 'static)) -> Option<Cause> {
    if error.is::<rustls::Error>() {
        return Some(Cause::TlsFailed);
    }
    if error.is::<NoAddress>() {
        return Some(Cause::DnsFailed);
    }
    match error.downcast_ref::<io::Error>()?.kind() {
        io::ErrorKind::ConnectionRefused => Some(Cause::ConnectionRefused),
        io::ErrorKind::TimedOut => Some(Cause::RelayTimeout),
        _ => None,
    }
}

/// What it was made of. An I/O error does not name what is in it as its source.
fn within<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_is_found_however_deep_it_is() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(of(&refused), Cause::ConnectionRefused);
        assert_eq!(of(&io::Error::other(io::Error::other(refused))), Cause::ConnectionRefused);
        let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        assert_eq!(of(&io::Error::new(io::ErrorKind::InvalidData, unknown)), Cause::TlsFailed);
        assert_eq!(of(&io::Error::from(io::ErrorKind::HostUnreachable)), Cause::RelayUnreachable);
    }
}
