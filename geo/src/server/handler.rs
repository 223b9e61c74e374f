//! One request in, one response out.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use hickory_proto::{
    op::{Edns, Header, HeaderCounts, Metadata, OpCode, ResponseCode},
    rr::RecordType,
};
use hickory_server::{
    net::runtime::Time,
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use tokio::sync::watch;

use crate::answer::{Answer, Directory, Question, Zone};

/// The largest datagram that crosses practically every path unfragmented (DNS Flag Day 2020).
const MAX_DATAGRAM: u16 = 1232;

/// The only version of EDNS there is (RFC 6891).
const EDNS_VERSION: u8 = 0;

/// Answers from the zone and whatever the directory holds now.
#[derive(Clone)]
pub(super) struct Handler {
    zone: Arc<Zone>,
    directory: watch::Receiver<Arc<Directory>>,
    turn: Arc<AtomicUsize>,
}

impl Handler {
    pub(super) fn new(zone: Zone, directory: watch::Receiver<Arc<Directory>>) -> Self {
        Self { zone: Arc::new(zone), directory, turn: Arc::default() }
    }

    fn answer(&self, request: &Request) -> Answer {
        if request.metadata.op_code != OpCode::Query {
            return Answer::bare(ResponseCode::NotImp);
        }
        if request.edns.as_ref().is_some_and(|edns| edns.version() > EDNS_VERSION) {
            return Answer::bare(ResponseCode::BADVERS);
        }
        let [query] = request.queries.queries() else { return Answer::bare(ResponseCode::FormErr) };
        let question = Question {
            // As it was asked: resolvers that randomise the case check for it.
            name: query.original().name(),
            class: query.query_class(),
            kind: query.query_type(),
            client: request.src().ip(),
            turn: self.turn.fetch_add(1, Ordering::Relaxed),
        };
        // Cloned, so that no question holds the directory's lock while it is answered.
        let directory = self.directory.borrow().clone();
        self.zone.answer(&question, &directory)
    }
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut reply: R) -> ResponseInfo {
        let answer = self.answer(request);
        count(request, answer.code);
        let metadata = metadata(request, answer.code);
        let edns = request.edns.as_ref().map(response_edns);
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let Answer { answers, authorities, additionals, .. } = &answer;
        let sent = reply.send_response(builder.build(metadata, answers, [], authorities, additionals)).await;
        sent.unwrap_or_else(|error| {
            // The caller is gone, or never was: nothing to tell anybody.
            tracing::debug!(%error, "response not sent");
            ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
        })
    }
}

fn metadata(request: &Request, code: ResponseCode) -> Metadata {
    let mut metadata = Metadata::response_from_request(&request.metadata);
    metadata.response_code = code;
    metadata.authoritative = matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
    metadata.recursion_available = false;
    metadata
}

fn response_edns(asked: &Edns) -> Edns {
    let mut edns = Edns::new();
    edns.set_version(EDNS_VERSION);
    edns.set_max_payload(asked.max_payload().clamp(512, MAX_DATAGRAM));
    // RFC 3225 section 3: the bit is copied, even by a server that signs nothing.
    edns.set_dnssec_ok(asked.flags().dnssec_ok);
    edns
}

/// Counts the question. Only types that are expected have a label of their own: callers choose the rest.
fn count(request: &Request, code: ResponseCode) {
    let kind = match request.queries.queries().first().map(|query| query.query_type()) {
        Some(RecordType::A) => "A",
        Some(RecordType::AAAA) => "AAAA",
        Some(RecordType::SRV) => "SRV",
        Some(RecordType::NS) => "NS",
        Some(RecordType::SOA) => "SOA",
        Some(RecordType::AXFR | RecordType::IXFR) => "transfer",
        Some(_) => "other",
        None => "none",
    };
    let code = code.to_str();
    metrics::counter!("nearfield_geo_dns_questions_total", "type" => kind, "code" => code).increment(1);
}
