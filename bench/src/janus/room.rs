//! A VideoRoom as another server has it that sends publishers in: plain RTP by UDP, one port for each.
//!
//! <https://janus.conf.meetecho.com/docs/videoroom.html>, `add_remote_publisher`.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue, http::header::SEC_WEBSOCKET_PROTOCOL},
};

/// For each request.
const DEADLINE: Duration = Duration::from_secs(10);
/// What lets a room be made.
const ADMIN_KEY: &str = "only-for-tests";
/// What Janus calls Opus in RTP (its default).
const OPUS: u8 = 111;
/// The extension that says how loud a packet is (RFC 6464).
pub const LEVEL_ID: u8 = 1;

/// The source of a remote publisher's `n`th stream: Janus tells them apart by it.
pub fn ssrc(n: u32) -> u32 {
    1000 + 10 * n
}

/// One session.
pub struct Room {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: Option<u64>,
    handle: Option<u64>,
    transaction: u64,
}

impl Room {
    /// A session with the Janus at `url`.
    ///
    /// # Errors
    /// It cannot be reached, or refuses.
    pub async fn open(url: &str) -> Result<Self> {
        let mut request = url.into_client_request()?;
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("janus-protocol"));
        let (socket, _) = timeout(DEADLINE, connect_async(request)).await??;
        let mut this = Self { socket, session: None, handle: None, transaction: 0 };
        this.session = this.ask(json!({ "janus": "create" })).await?["data"]["id"].as_u64();
        let attach = json!({ "janus": "attach", "plugin": "janus.plugin.videoroom" });
        this.handle = this.ask(attach).await?["data"]["id"].as_u64();
        Ok(this)
    }

    /// Makes a room, with more settings than usual.
    ///
    /// # Errors
    /// It is refused.
    pub async fn create(&mut self, room: u64, more: Value) -> Result<()> {
        let mut body = json!({
            "request": "create", "admin_key": ADMIN_KEY, "room": room, "publishers": 20,
            "audiocodec": "opus", "audiolevel_ext": true,
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            body[key] = value.clone();
        }
        self.request(body).await.map(drop)
    }

    /// Lets somebody publish so many streams of audio; the port that takes their packets.
    ///
    /// # Errors
    /// It is refused.
    pub async fn publish(&mut self, room: &Value, id: &Value, display: &str, streams: u32) -> Result<u16> {
        let stream = |n: u32| json!({ "type": "audio", "mindex": n, "mid": n.to_string(), "codec": "opus", "stereo": true, "audiolevel_ext_id": LEVEL_ID });
        let streams: Vec<Value> = (0..streams).map(stream).collect();
        let body = json!({ "request": "add_remote_publisher", "room": room, "id": id, "display": display, "streams": streams });
        let answer = self.request(body).await?;
        answer["port"].as_u64().and_then(|port| port.try_into().ok()).with_context(|| format!("no port: {answer}"))
    }

    async fn request(&mut self, body: Value) -> Result<Value> {
        let answer = self.ask(json!({ "janus": "message", "body": body })).await?;
        let data = &answer["plugindata"]["data"];
        match data["error"].as_str() {
            Some(why) => bail!("Janus refuses {}: {why}", body["request"]),
            None => Ok(data.clone()),
        }
    }

    async fn ask(&mut self, mut request: Value) -> Result<Value> {
        self.transaction += 1;
        let transaction = self.transaction.to_string();
        request["transaction"] = json!(transaction);
        for (key, id) in [("session_id", self.session), ("handle_id", self.handle)] {
            if let Some(id) = id {
                request[key] = json!(id);
            }
        }
        self.socket.send(Message::text(request.to_string())).await?;
        timeout(DEADLINE, self.answer(&transaction)).await.context("Janus does not answer")?
    }

    async fn answer(&mut self, transaction: &str) -> Result<Value> {
        while let Some(message) = self.socket.next().await {
            let Message::Text(text) = message? else { continue };
            let answer: Value = serde_json::from_str(&text)?;
            if answer["transaction"] != transaction || answer["janus"] == "ack" {
                continue;
            }
            return match answer["error"]["reason"].as_str() {
                Some(why) => bail!("Janus refuses: {why}"),
                None => Ok(answer),
            };
        }
        bail!("Janus hung up")
    }
}

/// One packet on its way to Janus (RFC 3550).
#[derive(Debug, Clone, Copy)]
pub struct Rtp<'a> {
    /// Whose.
    pub ssrc: u32,
    /// Its number.
    pub sequence: u16,
    /// When it was captured, by its source's clock.
    pub timestamp: u32,
    /// The first after a pause.
    pub marker: bool,
    /// How loud it is said to be, in -dBov, in the extension [`LEVEL_ID`].
    pub level: Option<u8>,
    /// Opus.
    pub payload: &'a [u8],
}

impl Rtp<'_> {
    /// As it is sent.
    pub fn bytes(&self) -> Vec<u8> {
        let Self { ssrc, sequence, timestamp, marker, level, payload } = *self;
        let mut bytes = vec![0x80 | u8::from(level.is_some()) << 4, OPUS | u8::from(marker) << 7];
        bytes.extend(sequence.to_be_bytes());
        bytes.extend(timestamp.to_be_bytes());
        bytes.extend(ssrc.to_be_bytes());
        if let Some(level) = level {
            // One element of one byte, filled up to a word (RFC 8285 section 4.2).
            bytes.extend([0xBE, 0xDE, 0, 1, LEVEL_ID << 4, level & 0x7F, 0, 0]);
        }
        bytes.extend_from_slice(payload);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_has_its_level_where_it_has_one() {
        let packet = Rtp { ssrc: ssrc(1), sequence: 2, timestamp: 3, marker: true, level: None, payload: &[9, 9] };
        assert_eq!(packet.bytes(), [0x80, 0xEF, 0, 2, 0, 0, 0, 3, 0, 0, 3, 0xF2, 9, 9]);
        let loud = Rtp { level: Some(127), marker: false, ..packet }.bytes();
        assert_eq!((loud[0], loud[1], &loud[12..]), (0x90, 0x6F, &[0xBE, 0xDE, 0, 1, 0x10, 127, 0, 0, 9, 9][..]));
    }
}
