//! The HTTP API as a user of it sees it.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail};
use eventsource_stream::Eventsource;
use futures_util::{Stream, StreamExt};
use serde_json::Value;

/// Deadline of every call but the stream.
const CALL: Duration = Duration::from_secs(20);

/// One core's API.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
}

/// One server-sent event.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its id, for `Last-Event-ID`.
    pub id: String,
    /// Its name, such as `transcript.final`.
    pub name: String,
    /// Its data.
    pub data: Value,
}

impl Client {
    /// The API at `api`.
    ///
    /// # Errors
    /// The HTTP client cannot be built.
    pub fn new(api: SocketAddr) -> Result<Self> {
        // The process default, which the HTTP client asks for even where it only speaks plain HTTP.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().connect_timeout(Duration::from_secs(5)).build()?;
        Ok(Self { http, base: format!("http://{api}") })
    }

    /// `GET path`, as JSON.
    ///
    /// # Errors
    /// No answer within 20 s, or none that is a success: the problem's text is in the error.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.call(self.http.get(format!("{}{path}", self.base))).await
    }

    /// `GET path`, as text.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn text(&self, path: &str) -> Result<String> {
        let response = self.http.get(format!("{}{path}", self.base)).timeout(CALL).send().await?;
        Ok(response.error_for_status()?.text().await?)
    }

    /// `POST path` with a JSON body.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.call(self.http.post(format!("{}{path}", self.base)).json(body)).await
    }

    /// `DELETE path`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn delete(&self, path: &str) -> Result<Value> {
        self.call(self.http.delete(format!("{}{path}", self.base))).await
    }

    /// The server-sent events of `path`, from the first one.
    ///
    /// # Errors
    /// The stream is refused; later breaks end the stream.
    pub async fn events(&self, path: &str) -> Result<impl Stream<Item = Event> + use<>> {
        Ok(self.resume(path, "0").await?.1)
    }

    /// The server-sent events of `path` after the one with id `last`, redirects followed; and who sends
    /// them, `host:port`.
    ///
    /// # Errors
    /// The stream is refused; later breaks end the stream.
    pub async fn resume(&self, path: &str, last: &str) -> Result<(String, impl Stream<Item = Event> + use<>)> {
        let request = self.http.get(format!("{}{path}", self.base)).header("last-event-id", last);
        let response = request.send().await?.error_for_status()?;
        if response.status() == reqwest::StatusCode::NO_CONTENT {
            bail!("nothing follows event {last}");
        }
        let from = response.url().authority().to_owned();
        let events = response.bytes_stream().eventsource().filter_map(async |event| {
            let event = event.ok()?;
            let data = serde_json::from_str(&event.data).unwrap_or(Value::Null);
            Some(Event { id: event.id, name: event.event, data })
        });
        Ok((from, events))
    }

    async fn call(&self, request: reqwest::RequestBuilder) -> Result<Value> {
        let request = request.timeout(CALL).build()?;
        let what = format!("{} {}", request.method(), request.url());
        let response = self.http.execute(request).await.with_context(|| what.clone())?;
        let status = response.status();
        let body = response.text().await.with_context(|| what.clone())?;
        if !status.is_success() {
            bail!("{what}: {status}: {body}");
        }
        if body.is_empty() { Ok(Value::Null) } else { serde_json::from_str(&body).with_context(|| what) }
    }
}
