#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

use super::{
    sections::{Common, HttpSection, LogFormat, LogSection, MeshSection, NodeSection, TlsSection},
    *,
};
use crate::identity::{Identity, Role, certs::Authority};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    node: NodeSection,
    mesh: MeshSection,
    tls: TlsSection,
    #[serde(default)]
    log: LogSection,
    http: HttpSection,
}

impl Whole {
    fn common(&self) -> Common<'_> {
        Common { node: &self.node, mesh: &self.mesh, tls: &self.tls, log: &self.log, http: &self.http }
    }
}

const GOOD: &str = r#"
    [node]
    id = "edge-1"
    region = "eu-central"
    [mesh]
    listen = "127.0.0.1:7400"
    [tls]
    ca = "ca.pem"
    cert = "cert.pem"
    key = "key.pem"
    trust_domain = "a.test"
    [http]
    listen = "127.0.0.1:8080"
"#;

fn source(text: &str, variables: &[(&str, &str)], sets: &[&str]) -> Result<Source, ConfigError> {
    let mut source = Source::default();
    source.file("edge.toml", text)?;
    let variables: BTreeMap<_, _> = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    source.variables("NEARFIELD_EDGE", &variables)?;
    sets.iter().try_for_each(|set| source.set(set))?;
    Ok(source)
}

fn parse(text: &str, variables: &[(&str, &str)], sets: &[&str]) -> Result<Whole, ConfigError> {
    source(text, variables, sets)?.parse()
}

fn refusal(text: &str, variables: &[(&str, &str)], sets: &[&str]) -> String {
    parse(text, variables, sets).expect_err("refused").to_string()
}

#[test]
fn later_sources_win_over_earlier_ones() {
    let variables = [("NEARFIELD_EDGE__MESH__LISTEN", "127.0.0.1:1"), ("NEARFIELD_EDGE__LOG__FORMAT", "json")];
    let whole = parse(GOOD, &variables, &["mesh.listen=127.0.0.1:2", r#"mesh.seeds=["a:1", "b:1"]"#]).unwrap();
    assert_eq!(whole.mesh.listen.port(), 2);
    assert_eq!(whole.mesh.seeds, ["a:1", "b:1"]);
    assert_eq!(whole.log.format, LogFormat::Json);
    assert_eq!((whole.log.filter.as_str(), whole.http.listen.port()), ("info", 8080));
    assert_eq!((whole.node.id.as_str(), whole.tls.trust_domain.as_str()), ("edge-1", "a.test"));
}

#[test]
fn a_bad_value_is_named_with_file_key_value_and_what_is_allowed() {
    let text = refusal(&GOOD.replace("eu-central", "Europe"), &[], &[]);
    assert_eq!(
        text,
        "edge.toml: node.region = \"Europe\": `Europe` is not a region id: 1 to 32 of a-z, 0-9 and `-`, such as `eu-central`"
    );
}

#[test]
fn a_bad_value_from_elsewhere_names_the_variable_or_the_flag() {
    let text = refusal(GOOD, &[("NEARFIELD_EDGE__LOG__FORMAT", "xml")], &[]);
    assert_eq!(
        text,
        "environment variable NEARFIELD_EDGE__LOG__FORMAT: log.format = \"xml\": unknown variant `xml`, expected `human` or `json`"
    );
    let text = refusal(GOOD, &[], &["mesh.listen=here"]);
    assert!(text.starts_with("--set: mesh.listen = \"here\": "), "{text}");
}

#[test]
fn an_unknown_key_is_named_beside_those_that_exist() {
    let text = refusal(&GOOD.replace("listen = \"127.0.0.1:7400\"", "lisen = \"127.0.0.1:7400\""), &[], &[]);
    assert!(text.starts_with("edge.toml: mesh"), "{text}");
    assert!(text.contains("unknown field `lisen`, expected one of `listen`, `advertise`"), "{text}");
    let text = refusal(GOOD, &[], &["tls.extra=1"]);
    assert!(text.starts_with("--set: tls.extra = 1: unknown field `extra`"), "{text}");
}

#[test]
fn a_missing_key_and_a_missing_section_are_named() {
    let text = refusal(&GOOD.replace("id = \"edge-1\"", ""), &[], &[]);
    assert_eq!(text, "edge.toml: node: missing field `id`");
    let text = refusal("", &[], &[]);
    assert_eq!(text, "edge.toml: the top level: missing field `node`");
}

#[test]
fn a_variable_that_has_no_effect_is_told_with_the_name_that_was_meant() {
    let variables = [
        ("NEARFIELD_EDGE_LOG_FORMAT", "json"),
        ("NEARFIELD_EDGE_TLS_TRUST_DOMAIN", "b.test"),
        ("NEARFIELD_EDGE_NODE__ID", "edge-2"),
        ("NEARFIELD_EDGE_COLOUR", "red"),
        ("NEARFIELD_LOG__FORMAT", "json"),
        ("NEARFIELD_EDGE__MESH__LISTEN", "127.0.0.1:1"),
        ("NEARFIELD_CORE__MESH__LISTEN", "127.0.0.1:1"),
        ("NEARFIELD_MODEL", "tiny"),
        ("PATH", "/bin"),
    ];
    let source = source(GOOD, &variables, &[]).unwrap();
    assert_eq!(source.parse::<Whole>().unwrap().log.format, LogFormat::Human, "it has no effect");
    let told = |name: &str, hint: &str| format!("environment variable `{name}` has no effect: {hint}");
    assert_eq!(
        source.strays::<Whole>(),
        [
            told("NEARFIELD_EDGE_COLOUR", "this program's settings begin with `NEARFIELD_EDGE__`"),
            told("NEARFIELD_EDGE_LOG_FORMAT", "did you mean `NEARFIELD_EDGE__LOG__FORMAT`?"),
            told("NEARFIELD_EDGE_NODE__ID", "did you mean `NEARFIELD_EDGE__NODE__ID`?"),
            told("NEARFIELD_EDGE_TLS_TRUST_DOMAIN", "did you mean `NEARFIELD_EDGE__TLS__TRUST_DOMAIN`?"),
            told("NEARFIELD_LOG__FORMAT", "this program's settings begin with `NEARFIELD_EDGE__`"),
        ]
    );
}

#[test]
fn a_log_filter_that_cannot_be_used_is_refused_by_a_check() {
    let source = source(GOOD, &[], &["log.filter=mesh=loud"]).unwrap();
    let mut checks = Checks::new(&source, Reach::Values);
    source.parse::<Whole>().unwrap().common().settings(&mut checks, Role::Edge, "test");
    let text = checks.finish().unwrap_err().to_string();
    assert!(text.starts_with("--set: log.filter = \"mesh=loud\": "), "{text}");
}

#[test]
fn what_is_not_toml_or_not_key_value_says_where() {
    let text = refusal("[node\nid = 1", &[], &[]);
    assert!(text.starts_with("edge.toml: not valid TOML: TOML parse error at line 1"), "{text}");
    assert!(refusal(GOOD, &[], &["mesh.listen"]).starts_with("--set mesh.listen: expected key=value"));
    let text = refusal(GOOD, &[], &["node.id.x=1"]);
    assert_eq!(text, "--set: node.id.x: `id` is a value, so nothing can be set under it");
    let text = Source::read(Some(Path::new("/nonexistent.toml")), "X", &[]).expect_err("refused").to_string();
    assert!(text.starts_with("/nonexistent.toml: cannot be read: "), "{text}");
}

#[test]
fn checks_of_a_program_s_own_have_the_same_shape() {
    let source = source("[dns]\nttl = 0\napi_token = \"hush\"", &[], &["dns.port=9"]).unwrap();
    let mut checks = Checks::new(&source, Reach::Machine);
    checks.range("dns.ttl", 1, 1..=3600);
    checks.range("dns.ttl", 0, 1..=3600);
    checks.ensure("dns.port", false, "53 or above 1023");
    checks.refuse("dns.api_token", "too short");
    assert_eq!(checks.accept("dns.ttl", "x".parse::<u8>()), None);
    assert_eq!(
        checks.finish().unwrap_err().to_string(),
        "edge.toml: dns.ttl = 0: must be 1 to 3600\n\
         --set: dns.port = 9: must be 53 or above 1023\n\
         edge.toml: dns.api_token = <hidden>: too short\n\
         edge.toml: dns.ttl = 0: invalid digit found in string"
    );
}

#[test]
fn no_error_names_a_type_of_rust_s() {
    #[derive(Debug, Deserialize)]
    struct Kinds {
        #[serde(rename = "port")]
        _port: u16,
        #[serde(rename = "count")]
        _count: u64,
        #[serde(rename = "list")]
        _list: Vec<String>,
        #[serde(rename = "node")]
        _node: NodeSection,
    }
    let wrong = source("port = \"x\"\ncount = true\nlist = 1\nnode = 2", &[], &[]).unwrap();
    let example = "port = 1\ncount = 1\nlist = []\n[node]\nid = \"a\"\nregion = \"b\"";
    let told = wrong.parse_whole::<Kinds>(example).unwrap_err().to_string();
    for (key, expected) in [
        ("port", "a whole number from 0 to 65535"),
        ("count", "a whole number from 0 on"),
        ("list", "a list"),
        ("node", "a section"),
    ] {
        let fits =
            |line: &str| line.contains(&format!(": {key} = ")) && line.ends_with(&format!(", expected {expected}"));
        assert!(told.lines().any(fits), "{key}: {told}");
    }
}

#[test]
fn no_error_repeats_a_secret() {
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Api {
        #[serde(rename = "token")]
        _token: String,
        #[serde(rename = "servers")]
        _servers: Vec<Server>,
    }
    #[derive(Debug, Deserialize)]
    struct Server {
        #[serde(rename = "credential")]
        _credential: String,
    }
    let told = |text: &str| source(text, &[], &[]).and_then(|source| source.parse::<Api>()).unwrap_err().to_string();
    assert_eq!(told("token = 4711\nservers = []"), "edge.toml: token = <hidden>: expected a string");
    let text = told("token = \"x\"\nservers = [{ credential = 4711 }]");
    assert_eq!(text, "edge.toml: servers[0].credential = <hidden>: expected a string");
    let text = told("token = \"4711");
    assert!(text.starts_with("edge.toml: not valid TOML: TOML parse error at line 1, column "), "{text}");
    assert!(!text.contains("4711"), "{text}");
    assert!(told("tokens = 4711").contains("unknown field `tokens`"));
    assert!(told("[node\nid = 4711").contains("[node"), "else the line is shown");
}

#[test]
fn files_are_read_only_where_the_machine_is_looked_at() {
    let source = Source::default();
    let mut values = Checks::new(&source, Reach::Values);
    assert_eq!(values.read("geo.regions_file", Path::new("/no/such/file")), None);
    values.finish().unwrap();
    let mut machine = Checks::new(&source, Reach::Machine);
    assert_eq!(machine.read("geo.regions_file", Path::new("/no/such/file")), None);
    assert!(machine.finish().unwrap_err().to_string().contains("geo.regions_file: cannot be read"));
}

/// A source and its settings with certificates issued for `uri`.
fn settings(uri: &str, sets: &[&str]) -> Result<crate::node::Settings, ConfigErrors> {
    let hour = Duration::from_secs(3600);
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create("a.test", hour).unwrap();
    let (cert, key) = authority.issue(&Identity::from_spiffe(uri, "a.test").unwrap(), hour).unwrap();
    let mut own = vec![];
    for (name, text) in [("ca", authority.ca_pem()), ("cert", &cert), ("key", &key)] {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        own.push(format!("tls.{name}={}", path.display()));
    }
    let all: Vec<&str> = own.iter().map(String::as_str).chain(sets.iter().copied()).collect();
    let source = source(GOOD, &[], &all).unwrap();
    let whole: Whole = source.parse().unwrap();
    let mut checks = Checks::new(&source, Reach::Machine);
    let (settings, _) = whole.common().settings(&mut checks, Role::Edge, "test");
    checks.finish().map(|()| settings.unwrap())
}

#[test]
fn the_certificate_must_name_the_configured_node() {
    let uri = |region: &str, role: &str, node: &str| format!("spiffe://a.test/region/{region}/role/{role}/node/{node}");
    let settings_of = |uri: String| settings(&uri, &[]).map(|s| s.advertise.to_string()).map_err(|e| e.to_string());
    assert_eq!(settings_of(uri("eu-central", "edge", "edge-1")), Ok("127.0.0.1:7400".into()));
    let text = settings_of(uri("eu-central", "edge", "edge-2")).expect_err("refused");
    assert_eq!(text, "edge.toml: node.id = \"edge-1\": the certificate in tls.cert names node `edge-2`");
    let text = settings_of(uri("us-east", "edge", "edge-1")).expect_err("refused");
    assert!(
        text.contains("node.region = \"eu-central\": the certificate in tls.cert names region `us-east`"),
        "{text}"
    );
    let text = settings_of(uri("eu-central", "core", "edge-1")).expect_err("refused");
    assert!(text.contains("names role `core`, this program is `edge`"), "{text}");
}

#[test]
fn addresses_that_lead_nowhere_are_refused() {
    let uri = "spiffe://a.test/region/eu-central/role/edge/node/edge-1";
    let text = settings(uri, &["mesh.listen=0.0.0.0:7400"]).expect_err("refused").to_string();
    assert!(text.contains("mesh.advertise: an unspecified address"), "{text}");
    for wrong in ["[fe80::1%2]:7400", "224.0.0.1:7400", "[2001:db8::1]:7400"] {
        let text = settings(uri, &[&format!("mesh.advertise={wrong}")]).expect_err("refused").to_string();
        assert!(text.starts_with(&format!("--set: mesh.advertise = \"{wrong}\": ")), "{text}");
    }
    let mapped = settings(uri, &["mesh.advertise=[::ffff:192.0.2.1]:7400"]).unwrap();
    assert_eq!(mapped.advertise.to_string(), "192.0.2.1:7400");
    let text = settings(uri, &[r#"mesh.seeds=["a:1", "b"]"#]).expect_err("refused").to_string();
    assert_eq!(text, "--set: mesh.seeds[1] = \"b\": must be host:port, such as core-1.example.net:7400");
    let text = settings(uri, &["tls.key=/nonexistent/key.pem"]).expect_err("refused").to_string();
    assert!(
        text.starts_with("--set: tls.key = \"/nonexistent/key.pem\": /nonexistent/key.pem: cannot be read"),
        "{text}"
    );
}
