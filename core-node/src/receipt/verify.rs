//! What a receipt proves, checked with nothing but the authority's certificate.

use std::time::SystemTime;

use geo::map::RegionMap;
use jiff::Timestamp;
use mesh::identity::{
    Identity, Role,
    certs::{Claim, NotProven},
};

use super::{
    KIND, Receipt, digest_of,
    jws::{BadJws, open},
};
use crate::residency::{UnknownPlace, allowed};

/// What a receipt is held against.
pub struct Against<'a> {
    /// The authorities that may have issued the signer's certificate, PEM.
    pub ca: &'a [u8],
    /// What they have revoked, PEM.
    pub crl: Option<&'a [u8]>,
    /// What regions and residency groups mean.
    pub map: &'a RegionMap,
    /// The transcript, as the API gives it in JSON, if it is to be that of the receipt.
    pub transcript: Option<&'a [u8]>,
}

/// Why a receipt is not to be believed.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// It cannot be read.
    #[error(transparent)]
    Malformed(#[from] BadJws),
    /// What is signed says something else than a receipt.
    #[error("what is signed is no receipt: {0}")]
    Payload(serde_json::Error),
    /// A receipt of another version.
    #[error("what is signed is a `{0}`, not a `{KIND}`")]
    Kind(String),
    /// Nobody vouches for it.
    #[error(transparent)]
    NotProven(#[from] NotProven),
    /// Signed by a node that makes no words.
    #[error("signed by {node}, whose certificate says `{role}`: only a core signs receipts")]
    NotACore {
        /// Who signed.
        node: String,
        /// What it is.
        role: Role,
    },
    /// Signed by another than it says, or by one that had no part.
    #[error("signed by {signer} in {region}, which is not among the cores that had part")]
    Stranger {
        /// Who signed.
        signer: String,
        /// Where that is.
        region: String,
    },
    /// Its times contradict each other.
    #[error("its times are out of order: begun {begun}, ended {ended}, signed {issued}")]
    Times {
        /// Begun.
        begun: Timestamp,
        /// Ended.
        ended: Timestamp,
        /// Signed.
        issued: Timestamp,
    },
    /// It names a place that the region map does not know.
    #[error("{0}: name the mesh's own table with --regions")]
    Place(#[from] UnknownPlace),
    /// A node was where the meeting was not allowed to be.
    #[error("{node} is in {region}, outside the residency that was asked for ({})", residency.join(", "))]
    Outside {
        /// Which node.
        node: String,
        /// Where it is.
        region: String,
        /// Where the meeting was allowed to be.
        residency: Vec<String>,
    },
    /// The transcript given is none.
    #[error("the transcript cannot be read: {0}")]
    Transcript(String),
    /// The transcript given is another.
    #[error("the transcript is not the one of the receipt: its digest is {found}, the receipt has {signed}")]
    OtherTranscript {
        /// Of what was given.
        found: String,
        /// In the receipt.
        signed: String,
    },
}

/// Checks a signed receipt. Returns what it says and who signed it.
///
/// The time of signing is the signer's own word: a core whose key was stolen later could date a receipt back.
///
/// # Errors
/// See [`Invalid`].
pub fn verify(text: &[u8], against: &Against<'_>) -> Result<(Receipt, Identity), Invalid> {
    let opened = open(text)?;
    let receipt: Receipt = serde_json::from_slice(&opened.payload).map_err(Invalid::Payload)?;
    let claim = Claim {
        chain: &opened.chain,
        algorithm: opened.algorithm,
        message: &opened.message,
        signature: &opened.signature,
        at: SystemTime::from(receipt.issued_at),
    };
    let signer = claim.verify(against.ca, against.crl)?;
    if receipt.kind != KIND {
        return Err(Invalid::Kind(receipt.kind.chars().take(64).collect()));
    }
    check_signer(&receipt, &signer)?;
    check_times(&receipt)?;
    check_residency(&receipt, against.map)?;
    if let Some(transcript) = against.transcript {
        check_transcript(&receipt, transcript)?;
    }
    Ok((receipt, signer))
}

fn check_signer(receipt: &Receipt, signer: &Identity) -> Result<(), Invalid> {
    let (node, region) = (signer.node.as_str(), signer.region.as_str());
    if signer.role != Role::Core {
        return Err(Invalid::NotACore { node: node.into(), role: signer.role });
    }
    let had_part = receipt.cores.iter().any(|c| c.node == node && c.region == region);
    if had_part && receipt.issuer == node {
        Ok(())
    } else {
        Err(Invalid::Stranger { signer: node.into(), region: region.into() })
    }
}

fn check_times(receipt: &Receipt) -> Result<(), Invalid> {
    let (begun, ended, issued) = (receipt.begun_at, receipt.ended_at, receipt.issued_at);
    if begun <= ended && ended <= issued { Ok(()) } else { Err(Invalid::Times { begun, ended, issued }) }
}

fn check_residency(receipt: &Receipt, map: &RegionMap) -> Result<(), Invalid> {
    let Some(regions) = allowed(map, &receipt.residency)? else { return Ok(()) };
    let outside = receipt.regions().find(|(_, region)| !regions.iter().any(|r| r.as_str() == *region));
    outside.map_or(Ok(()), |(node, region)| {
        Err(Invalid::Outside { node: node.into(), region: region.into(), residency: receipt.residency.clone() })
    })
}

fn check_transcript(receipt: &Receipt, transcript: &[u8]) -> Result<(), Invalid> {
    let unreadable = |e: serde_json::Error| Invalid::Transcript(e.to_string());
    let mut whole: serde_json::Value = serde_json::from_slice(transcript).map_err(unreadable)?;
    let segments = whole.get_mut("segments").map(serde_json::Value::take);
    let segments = segments.ok_or_else(|| Invalid::Transcript("it has no `segments`".into()))?;
    let found = digest_of(&segments.to_string()).map_err(unreadable)?;
    let signed = receipt.transcript.sha256.clone();
    if found == signed { Ok(()) } else { Err(Invalid::OtherTranscript { found, signed }) }
}
