//! The HTTP API as a user of it sees it.

use std::{net::SocketAddr, str::FromStr, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use eventsource_stream::Eventsource;
use futures_util::{Stream, StreamExt};
use reqwest::{
    Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
};
use serde_json::Value;

/// Deadline of every call but the stream.
const CALL: Duration = Duration::from_secs(20);

/// One core's API.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
}

/// Where an API is: `10.0.0.1:8080`, `core.example:8080`, or an `http` or `https` URL, a path before `/v1` included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api(Url);

impl Api {
    /// Its host, an IPv6 address without brackets, and its port.
    pub fn host_and_port(&self) -> (String, u16) {
        let host = self.0.host_str().unwrap_or_default().trim_matches(['[', ']']);
        (host.to_owned(), self.0.port_or_known_default().unwrap_or_default())
    }
}

impl FromStr for Api {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url = Url::parse(&url).with_context(|| format!("`{text}` is no address, such as core.example:8080"))?;
        ensure!(["http", "https"].contains(&url.scheme()), "`{text}`: http or https, not {}", url.scheme());
        ensure!(url.host_str().is_some_and(|host| !host.is_empty()), "`{text}` names no host");
        Ok(Self(url))
    }
}

impl From<SocketAddr> for Api {
    fn from(address: SocketAddr) -> Self {
        Self(Url::parse(&format!("http://{address}")).expect("an address is a URL's host and port"))
    }
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
        Self::with_token(&api.into(), None)
    }

    /// The API at `api`, whose bearer token is `token`.
    ///
    /// # Errors
    /// The HTTP client cannot be built, or the token cannot stand in a header.
    pub fn with_token(api: &Api, token: Option<&str>) -> Result<Self> {
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            let mut value =
                HeaderValue::from_str(&format!("Bearer {token}")).context("the token has odd characters")?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        // The process default, which the HTTP client asks for even where it only speaks plain HTTP.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = reqwest::Client::builder().no_proxy().connect_timeout(Duration::from_secs(5));
        let http = builder.default_headers(headers).build()?;
        Ok(Self { http, base: api.0.as_str().trim_end_matches('/').to_owned() })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_is_an_address_a_name_or_a_url() {
        for (text, base, host, port) in [
            ("10.0.0.1:8080", "http://10.0.0.1:8080/", "10.0.0.1", 8080),
            ("[::1]:8080", "http://[::1]:8080/", "::1", 8080),
            ("core.example:8080", "http://core.example:8080/", "core.example", 8080),
            ("https://core.example/nearfield/", "https://core.example/nearfield/", "core.example", 443),
        ] {
            let api: Api = text.parse().unwrap();
            assert_eq!((api.0.as_str(), api.host_and_port()), (base, (host.to_owned(), port)));
        }
    }

    #[test]
    fn what_is_no_api_is_named() {
        for text in ["ftp://core.example", "http://", "core.example:99999", ""] {
            let error = text.parse::<Api>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }
}
