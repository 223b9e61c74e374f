//! The signalling of one stay: a WebSocket that may be lost and come back while media go on.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_URL_SAFE};
use futures_util::{StreamExt, future::BoxFuture};
use mesh::wire::{cause::Cause, request::Secret};
use prost::Message as _;
use reqwest::Url;
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::{
    Message,
    client::IntoClientRequest,
    http::{HeaderValue, header::AUTHORIZATION},
};

use super::{
    super::{
        ConnectError,
        websocket::{self, Socket, unreachable},
    },
    message::{Client, ConnectionSettings, JoinRequest, Sdk, WrappedJoinRequest},
    room::Offers,
};
use crate::egress::Policy;

/// What we say of ourselves: the version of the protocol that is spoken here.
const PROTOCOL: i32 = 16;

/// And the kind of client. As Go's we do ICE over UDP and TURN only: of one that it does not know the server believes that it does
/// ICE over TCP, and after a loss by UDP leaves it nothing else (`SupportsICETCP` in its `pkg/rtc/clientinfo.go`). What else it
/// does for Go's is for those who publish, or from version 2.4.0 on.
const SDK: Sdk = Sdk::Go;

/// The longest message taken: the roster of a large room, with what its people say of themselves (a server takes 512 KiB of each).
pub(super) const MAX_MESSAGE: usize = 32 << 20;

/// Where and how a room is joined.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) url: Url,
    pub(super) token: Secret,
    pub(super) offers: Offers,
    pub(super) egress: Policy,
}

/// The signalling.
pub(super) enum Line {
    Open(Box<Socket>),
    Opening(BoxFuture<'static, Result<Socket, ConnectError>>),
    Broken(Option<ConnectError>),
}

/// What has come of it.
pub(super) enum Heard {
    Message(Vec<u8>),
    /// Nothing to us.
    Nothing,
    /// It is open again.
    Back,
    /// It is lost, or could not be opened.
    Lost(ConnectError),
}

impl Door {
    /// Opens it for the first time or, with what we were called, again.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub(super) async fn open(&self, sid: Option<&str>) -> Result<Socket, ConnectError> {
        let url = self.address(sid);
        let mut request = url.as_str().into_client_request().map_err(unreachable)?;
        let token = HeaderValue::from_str(&format!("Bearer {}", self.token.0)).map_err(|_| refusal(401))?;
        request.headers_mut().insert(AUTHORIZATION, token);
        websocket::open(request, &url, &self.egress, MAX_MESSAGE, |status| Some(refusal(status))).await
    }

    /// No token is in it: proxies keep addresses in their logs.
    fn address(&self, sid: Option<&str>) -> Url {
        let mut url = self.url.clone();
        url.set_query(None);
        url.set_fragment(None);
        let path: &[&str] = match self.offers {
            Offers::Ours => &["rtc", "v1"],
            Offers::Theirs => &["rtc"],
        };
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let version = env!("CARGO_PKG_VERSION");
        match self.offers {
            Offers::Ours => drop(url.query_pairs_mut().append_pair("join_request", &join_request(version, sid))),
            Offers::Theirs => {
                let mut query = url.query_pairs_mut();
                query.append_pair("protocol", &PROTOCOL.to_string()).append_pair("auto_subscribe", "0");
                query.append_pair("sdk", "go").append_pair("version", version);
                if let Some(sid) = sid {
                    query.append_pair("reconnect", "1").append_pair("sid", sid);
                }
            }
        }
        url
    }
}

fn join_request(version: &str, sid: Option<&str>) -> String {
    let request = JoinRequest {
        client: Some(Client { sdk: SDK as i32, version: version.into(), protocol: PROTOCOL }),
        settings: Some(ConnectionSettings { auto_subscribe: false }),
        reconnect: sid.is_some(),
        sid: sid.unwrap_or_default().into(),
    };
    BASE64_URL_SAFE.encode(WrappedJoinRequest { join_request: request.encode_to_vec() }.encode_to_vec())
}

/// What a server says with an HTTP status.
fn refusal(status: u16) -> ConnectError {
    let problem = match status {
        401 | 403 => "the token is not valid for it: its key, its room or its time",
        404 => "there is no such room, or no LiveKit",
        429 | 503 => "it takes no more just now",
        _ => "it gives no reason",
    };
    ConnectError::Refused { request: "our joining", status, problem }
}

impl Line {
    /// Opens again after a while.
    pub(super) fn again(door: Door, sid: String, after: Duration) -> Self {
        Self::Opening(Box::pin(async move {
            sleep(after).await;
            door.open(Some(&sid)).await
        }))
    }

    /// What is next. Cancel safe.
    pub(super) async fn next(&mut self) -> Heard {
        match self {
            Self::Open(socket) => heard(socket.next().await),
            Self::Opening(opening) => match opening.await {
                Ok(socket) => {
                    *self = Self::Open(Box::new(socket));
                    Heard::Back
                }
                Err(error) => {
                    *self = Self::Broken(None);
                    Heard::Lost(error)
                }
            },
            Self::Broken(error) => match error.take() {
                Some(error) => Heard::Lost(error),
                None => std::future::pending().await,
            },
        }
    }

    /// Sends a message, should it be open; that it was not taken [`Line::next`] says.
    pub(super) async fn send(&mut self, bytes: Vec<u8>) {
        if let Self::Open(socket) = self
            && let Err(error) = websocket::send(socket, Message::binary(bytes)).await
        {
            *self = Self::Broken(Some(error));
        }
    }

    /// Says farewell, as far as the server lets us.
    pub(super) async fn close(self) {
        if let Self::Open(mut socket) = self {
            let _ = socket.close(None).await;
        }
    }
}

fn heard(message: Option<Result<Message, tokio_tungstenite::tungstenite::Error>>) -> Heard {
    match message {
        Some(Ok(Message::Binary(bytes))) => Heard::Message(bytes.into()),
        Some(Ok(Message::Close(_))) | None => Heard::Lost(ConnectError::Unreachable {
            cause: Cause::RelayUnreachable,
            why: "LiveKit closed the WebSocket".into(),
        }),
        Some(Ok(_)) => Heard::Nothing,
        Some(Err(error)) => Heard::Lost(unreachable(error)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn door(url: &str, offers: Offers) -> Door {
        let (url, token) = (url.parse().unwrap(), Secret("hush".into()));
        Door { url, token, offers, egress: Policy::default() }
    }

    #[test]
    fn a_room_is_joined_below_the_url_with_what_the_server_is_to_know() {
        let url = door("wss://livekit.example/some/where/?a=b#c", Offers::Ours).address(None);
        assert_eq!((url.path(), url.fragment()), ("/some/where/rtc/v1", None));
        let (name, value) = url.query_pairs().next().unwrap();
        assert_eq!(name, "join_request");
        let wrapped = WrappedJoinRequest::decode(&BASE64_URL_SAFE.decode(&*value).unwrap()[..]).unwrap();
        let request = JoinRequest::decode(&wrapped.join_request[..]).unwrap();
        assert!(!request.settings.unwrap().auto_subscribe && !request.reconnect);
        let client = request.client.unwrap();
        assert_eq!(client.sdk(), Sdk::Go, "no ICE over TCP");
        let major_minor: Vec<u32> = client.version.split('.').take(2).map(|n| n.parse().unwrap()).collect();
        assert!(major_minor < vec![2, 4], "from then on Go's take SCTP without checksums");

        let again = door("ws://livekit.example", Offers::Theirs).address(Some("PA_1"));
        assert_eq!(again.path(), "/rtc");
        let query = again.query().unwrap();
        assert!(
            query.contains("auto_subscribe=0") && query.contains("sdk=go") && query.contains("reconnect=1&sid=PA_1"),
            "{query}"
        );
        assert!(!query.contains("hush"));
    }
}
