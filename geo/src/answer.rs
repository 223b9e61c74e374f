//! A question and the live nodes in, records out. No clock, no socket, no cache.
//!
//! | name in the zone | records |
//! |---|---|
//! | the domain | SOA, NS |
//! | `_nearfield._udp` | SRV: nodes to join the mesh by, from as many regions as there are |
//! | `edge`, `<region>.edge` | A, AAAA: the live edges nearest to the caller, or to that region |
//! | `<node>.<region>.node` | A, AAAA of one node |
//! | each configured name server | A or AAAA |

mod nearest;
mod owner;
mod settings;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use hickory_proto::{
    op::ResponseCode,
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{NS, SOA, SRV},
    },
};

pub use self::settings::{BadSettings, NameServer, Settings};
use self::{nearest::Ranked, owner::Owner};
use crate::{client::Clients, latency::LatencyModel, region::RegionId};

/// The most nodes that one SRV answer names. 32 fill about 2 kB: past a datagram, well within a TCP answer.
pub const MAX_SEEDS: usize = 32;

/// Addresses of SRV targets ride along up to this many, so that the whole still fits a datagram of 1232 bytes.
const MAX_GLUE: usize = 8;

/// TTL of what only configuration changes: NS, SOA, and the name servers' addresses.
const STATIC_TTL_S: u32 = 3600;

/// A node that gossip holds alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveNode {
    /// Its id: one DNS label.
    pub name: String,
    /// `edge`, `core` or `dns`.
    pub role: String,
    /// Where it runs.
    pub region: RegionId,
    /// Where its mesh endpoint (QUIC) listens.
    pub addr: SocketAddr,
    /// Where its HTTP API listens.
    pub api: Option<SocketAddr>,
    /// It takes no new work: its own name still resolves, no other answer names it.
    pub draining: bool,
}

/// Every node that gossip holds alive, in any order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directory {
    /// The nodes.
    pub nodes: Vec<LiveNode>,
    /// There are others whom gossip does not reach: of what is not in here nothing is known.
    pub cut_off: bool,
}

/// What is asked, by whom.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The name, in whatever case it was asked.
    pub name: &'a Name,
    /// The class; all but `IN` is refused.
    pub class: DNSClass,
    /// The type.
    pub kind: RecordType,
    /// Where the question came from: a resolver, as a rule.
    pub client: IpAddr,
    /// Any number, another for each question: who comes first among equals.
    pub turn: usize,
}

/// The sections of a response.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// `NoError`, `NXDomain`, `Refused`, or `ServFail` where another server may know better.
    pub code: ResponseCode,
    /// What was asked for.
    pub answers: Vec<Record>,
    /// The SOA of a negative answer (RFC 2308 section 3).
    pub authorities: Vec<Record>,
    /// Addresses that the caller will want next.
    pub additionals: Vec<Record>,
}

impl Answer {
    /// No records, only a code.
    pub fn bare(code: ResponseCode) -> Self {
        Self { code, answers: Vec::new(), authorities: Vec::new(), additionals: Vec::new() }
    }
}

/// The zone: all that stays the same between two questions.
#[derive(Debug, Clone)]
pub struct Zone {
    domain: Name,
    soa: SOA,
    name_servers: Vec<(Name, IpAddr)>,
    latency: LatencyModel,
    clients: Clients,
    edges_ttl_s: u32,
    seeds_ttl_s: u32,
    edges_per_answer: usize,
}

impl Zone {
    /// The response to one question, given who is alive.
    pub fn answer(&self, question: &Question<'_>, directory: &Directory) -> Answer {
        let transfer = matches!(question.kind, RecordType::AXFR | RecordType::IXFR);
        if transfer || question.class != DNSClass::IN {
            return Answer::bare(ResponseCode::Refused);
        }
        let Some(owner) = Owner::of(question.name, &self.domain) else {
            return Answer::bare(ResponseCode::Refused);
        };
        // "There is none", said with authority, would keep the caller from the next name server.
        if directory.cut_off && directory.lacks(&owner) {
            return Answer::bare(ResponseCode::ServFail);
        }
        let Some(mut answers) = self.records(&owner, question, directory) else {
            return self.negative(ResponseCode::NXDomain);
        };
        answers.retain(|record| question.kind == RecordType::ANY || record.record_type() == question.kind);
        if answers.is_empty() {
            return self.negative(ResponseCode::NoError);
        }
        let additionals = self.additionals(&answers, directory);
        Answer { answers, additionals, ..Answer::bare(ResponseCode::NoError) }
    }

    /// Every record of a name, whatever its type; `None` if there is no such name.
    fn records(&self, owner: &Owner, question: &Question<'_>, directory: &Directory) -> Option<Vec<Record>> {
        match owner {
            Owner::Apex => Some(self.apex(question.name)),
            Owner::Seeds => Some(self.seeds(question, directory)),
            Owner::Edges(None) => Some(self.edges(question, self.clients.region(question.client), directory)),
            Owner::Edges(Some(region)) => {
                let known = self.latency.map().region(region).is_some() || directory.has_region(region);
                known.then(|| self.edges(question, region, directory))
            }
            Owner::Node { name, region } => {
                let node = directory.nodes.iter().find(|node| node.name == *name && node.region == *region)?;
                Some(vec![address(question.name, self.seeds_ttl_s, node.addr.ip())])
            }
            Owner::NodesOf(region) => directory.has_region(region).then(Vec::new),
            Owner::Branch => Some(Vec::new()),
            Owner::Host => self.host(question.name),
            Owner::Unknown => None,
        }
    }

    fn apex(&self, name: &Name) -> Vec<Record> {
        let servers = self.name_servers.iter().map(|(server, _)| RData::NS(NS(server.clone())));
        let all = std::iter::once(RData::SOA(self.soa.clone())).chain(servers);
        all.map(|data| Record::from_rdata(name.clone(), STATIC_TTL_S, data)).collect()
    }

    fn seeds(&self, question: &Question<'_>, directory: &Directory) -> Vec<Record> {
        let from = self.clients.region(question.client);
        let ranked = Ranked::new(directory.open(), from, &self.latency, question.turn);
        let record = |node: &LiveNode| {
            let target = below(&self.domain, &[&node.name, node.region.as_str(), "node"])?;
            let srv = SRV::new(0, 1, node.addr.port(), target);
            Some(Record::from_rdata(question.name.clone(), self.seeds_ttl_s, RData::SRV(srv)))
        };
        ranked.spread(MAX_SEEDS).into_iter().filter_map(record).collect()
    }

    /// The edges nearest to `from`, each address family ranked by itself: a caller uses only one of them.
    fn edges(&self, question: &Question<'_>, from: &RegionId, directory: &Directory) -> Vec<Record> {
        let family = |v4: bool| {
            // Edges behind one address are one record: RFC 2181 section 5 has no duplicates in a set.
            let mut seen = BTreeSet::new();
            let edges = directory
                .open()
                .filter(move |node| node.role == "edge" && node.addr.is_ipv4() == v4 && seen.insert(node.addr.ip()));
            Ranked::new(edges, from, &self.latency, question.turn).nearest(self.edges_per_answer)
        };
        let chosen = family(true).into_iter().chain(family(false));
        chosen.map(|node| address(question.name, self.edges_ttl_s, node.addr.ip())).collect()
    }

    fn host(&self, name: &Name) -> Option<Vec<Record>> {
        let (_, ip) = self.name_servers.iter().find(|(server, _)| server == name)?;
        Some(vec![address(name, STATIC_TTL_S, *ip)])
    }

    /// Addresses of the hosts that `answers` name.
    fn additionals(&self, answers: &[Record], directory: &Directory) -> Vec<Record> {
        if answers.len() > MAX_GLUE {
            return Vec::new();
        }
        let targets = answers.iter().filter_map(|record| match &record.data {
            RData::SRV(srv) => Some(&srv.target),
            RData::NS(NS(target)) => Some(target),
            _ => None,
        });
        targets.filter_map(|target| self.target_address(target, directory)).collect()
    }

    fn target_address(&self, target: &Name, directory: &Directory) -> Option<Record> {
        let question = Question {
            name: target,
            class: DNSClass::IN,
            kind: RecordType::ANY,
            client: IpAddr::from([0, 0, 0, 0]),
            turn: 0,
        };
        self.records(&Owner::of(target, &self.domain)?, &question, directory)?.pop()
    }

    /// No such records, or no such name: with the SOA that says for how long (RFC 2308 section 5: the lesser of
    /// its TTL and its last field).
    fn negative(&self, code: ResponseCode) -> Answer {
        let soa = Record::from_rdata(self.domain.clone(), self.edges_ttl_s, RData::SOA(self.soa.clone()));
        Answer { authorities: vec![soa], ..Answer::bare(code) }
    }
}

impl Directory {
    /// The nodes that take new work.
    fn open(&self) -> impl Iterator<Item = &LiveNode> {
        self.nodes.iter().filter(|node| !node.draining)
    }

    /// Whether what `owner` stands for depends on nodes that are not in here.
    fn lacks(&self, owner: &Owner) -> bool {
        match owner {
            Owner::Edges(_) => !self.open().any(|node| node.role == "edge"),
            Owner::Node { name, region } => !self.nodes.iter().any(|node| node.name == *name && node.region == *region),
            Owner::NodesOf(region) => !self.has_region(region),
            Owner::Apex | Owner::Seeds | Owner::Branch | Owner::Host | Owner::Unknown => false,
        }
    }

    fn has_region(&self, region: &RegionId) -> bool {
        self.nodes.iter().any(|node| node.region == *region)
    }
}

/// The name of `labels` below `domain`; `None` if that makes no DNS name.
fn below(domain: &Name, labels: &[&str]) -> Option<Name> {
    Name::from_labels(labels.iter().map(|label| label.as_bytes())).ok()?.append_domain(domain).ok()
}

fn address(name: &Name, ttl_s: u32, ip: IpAddr) -> Record {
    Record::from_rdata(name.clone(), ttl_s, RData::from(ip))
}

#[cfg(test)]
mod tests;
