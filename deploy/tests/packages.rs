//! The Debian packages are installed, upgraded and removed on a machine where systemd runs their units.
#![allow(clippy::unwrap_used)]

mod machine;

use std::{fs, path::Path, process::Command};

use machine::{Machine, build_packages, root};

const ROLES: [(&str, &str); 3] = [("core", "core-node"), ("edge", "edge-node"), ("dns", "geo-dns")];

/// `systemd-analyze security`, times ten: 0 is tight, 100 is open.
const EXPOSURE: u32 = 17;

#[test]
fn packages_are_installed_upgraded_and_removed() {
    if !Machine::can_be() {
        return;
    }
    let files = tempfile::tempdir().unwrap();
    build_packages(files.path(), "1.0.0");
    newer(files.path(), "1.0.0", "1.0.1");
    let machine = Machine::boot(files.path());
    installed(&machine);
    sandboxed(&machine);
    configured(&machine);
    started(&machine);
    reloaded(&machine);
    upgraded(&machine);
    stopped(&machine);
    removed(&machine);
}

/// The same under a newer version.
fn newer(folder: &Path, old: &str, new: &str) {
    let script = r#"
        for deb in "$1"/*_"$2"_*.deb; do
            work=$(mktemp -d)
            dpkg-deb -R "$deb" "$work"
            sed -i "s/^Version: .*/Version: $3/" "$work/DEBIAN/control"
            dpkg-deb -Znone -b "$work" "$1" > /dev/null
            rm -rf "$work"
        done"#;
    let output = Command::new("sh").args(["-ec", script, "sh"]).arg(folder).args([old, new]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn installed(machine: &Machine) {
    machine.does("dpkg -i /mnt/*_1.0.0_*.deb");
    for (role, program) in ROLES {
        machine.does(&format!("id nearfield-{role} && {program} --version && systemctl is-enabled nearfield-{role}"));
        let folder = machine.does(&format!("stat -c '%a %U %G' /etc/nearfield/{role}"));
        assert_eq!(folder, format!("750 root nearfield-{role}"));
        assert!(!machine.run(&format!("systemctl is-active nearfield-{role}")).0, "{role} has no settings yet");
    }
    machine.does("nearfield --version");
}

fn sandboxed(machine: &Machine) {
    for (role, _) in ROLES {
        let said = machine.does(&format!("systemd-analyze verify nearfield-{role}.service 2>&1"));
        assert_eq!(said, "", "nearfield-{role}.service");
        machine.does(&format!("systemd-analyze security --threshold={EXPOSURE} nearfield-{role}.service"));
    }
    // A meeting's process takes limits upon itself. So it must be let.
    let filters = machine.does("grep ^SystemCall /lib/systemd/system/nearfield-edge.service");
    let filters: String = filters.lines().map(|line| format!("-p '{line}' ")).collect();
    machine.does(&format!("systemd-run --quiet --wait {filters} -p User=nearfield-edge sh -c 'ulimit -d 100000'"));
}

/// Each as an operator would do it: the example of the package with what is one's own.
fn configured(machine: &Machine) {
    machine
        .does("nearfield certs --dir /root/certs core-1:core:eu-central edge-1:edge:eu-central dns-1:dns:eu-central");
    for (at, (role, _)) in ROLES.iter().enumerate() {
        certificate(machine, role);
        let example = machine.does(&format!("cat /usr/share/nearfield/{role}.example.toml"));
        machine.write(&format!("/etc/nearfield/{role}/{role}.toml"), &settings(&example, role, at));
    }
}

fn certificate(machine: &Machine, role: &str) {
    let to = format!("/etc/nearfield/{role}");
    machine.does(&format!(
        "cd /root/certs && cp ca.pem {to}/ && cp {role}-1.pem {to}/node.pem && \
         install -m 640 -g nearfield-{role} {role}-1.key {to}/node.key"
    ));
}

/// A node's settings, on ports of its own.
fn settings(example: &str, role: &str, at: usize) -> String {
    let own = [
        ("id", format!("\"{role}-1\"")),
        ("seeds", "[\"127.0.0.1:4400\"]".into()),
        ("engine", "\"openai\"".into()),
        ("spill_dir", "\"/var/lib/nearfield/edge/spill\"".into()),
        ("name_servers", "[\"ns1=127.0.0.1\"]".into()),
    ];
    let mut section = String::new();
    let line = |line: &str| {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_owned();
        }
        let Some((key, _)) = line.trim_start_matches("# ").split_once(" = ") else { return line.to_owned() };
        let value = match (section.as_str(), key) {
            ("mesh", "listen" | "advertise") => format!("\"127.0.0.1:44{at:02}\""),
            ("http", "listen") => format!("\"127.0.0.1:80{at:02}\""),
            ("dns", "listen") => "\"127.0.0.1:53\"".into(),
            ("mesh", "dns_domain") => return String::new(),
            _ => match own.iter().find(|(own, _)| *own == key) {
                Some((_, value)) => value.clone(),
                None => return line.to_owned(),
            },
        };
        format!("{key} = {value}")
    };
    example.lines().map(line).collect::<Vec<_>>().join("\n") + "\n"
}

fn healthy(machine: &Machine) {
    for at in 0..ROLES.len() {
        machine.comes_to(&format!("curl -sf http://127.0.0.1:80{at:02}/healthz"));
    }
}

fn started(machine: &Machine) {
    for (role, program) in ROLES {
        machine.does(&format!("{program} --config /etc/nearfield/{role}/{role}.toml --check"));
        machine.does(&format!("systemctl start nearfield-{role}"));
    }
    healthy(machine);
    let nodes = "curl -sf http://127.0.0.1:8000/v1/nodes | grep edge-1 | grep dns-1";
    machine.comes_to(nodes);
    assert!(machine.path("/var/lib/nearfield/core/core.redb").is_file(), "in its own folder");
    // In a folder that is nobody else's.
    assert_eq!(machine.does("stat -c %a /var/lib/nearfield/core"), "700");
    // What ends by itself is started again.
    let before = pid(machine, "edge");
    machine.does(&format!("kill -KILL {before}"));
    machine.comes_to(&format!("test $(systemctl show -P MainPID nearfield-edge) -gt 1 && test $(systemctl show -P MainPID nearfield-edge) != {before}"));
    healthy(machine);
}

fn pid(machine: &Machine, role: &str) -> String {
    machine.does(&format!("systemctl show -P MainPID nearfield-{role}"))
}

fn reloaded(machine: &Machine) {
    machine.does("nearfield certs --dir /root/certs --renew");
    for (at, (role, _)) in ROLES.iter().enumerate() {
        let before = pid(machine, role);
        certificate(machine, role);
        machine.does(&format!("systemctl reload nearfield-{role}"));
        machine.comes_to(&format!(
            "curl -s http://127.0.0.1:80{at:02}/metrics | grep 'certificate_renewals_total.*taken.* 1$'"
        ));
        assert_eq!(pid(machine, role), before, "{role} goes on");
    }
}

fn upgraded(machine: &Machine) {
    let sums = "find /etc/nearfield -type f | sort | xargs stat -c '%n %a %U %G %Y'";
    let (kept, before) = (machine.does(sums), ROLES.map(|(role, _)| pid(machine, role)));
    machine.does("dpkg -i /mnt/*_1.0.1_*.deb");
    assert_eq!(machine.does(sums), kept, "an upgrade touches no settings");
    healthy(machine);
    for ((role, _), before) in ROLES.iter().zip(before) {
        assert_ne!(pid(machine, role), before, "{role} runs the new program");
        drained(machine, role);
    }
}

fn stopped(machine: &Machine) {
    for (role, _) in ROLES {
        machine.does(&format!("systemctl stop nearfield-{role}"));
        let result = machine.does(&format!("systemctl show -P Result -P ExecMainStatus nearfield-{role}"));
        assert_eq!(result.split_whitespace().collect::<Vec<_>>(), ["success", "0"], "{role}");
        drained(machine, role);
    }
    machine.does("systemctl start nearfield-core nearfield-edge nearfield-dns");
    healthy(machine);
}

/// Its last word was its own.
fn drained(machine: &Machine, role: &str) {
    let told = machine.does(&format!("journalctl --no-pager -u nearfield-{role}"));
    assert!(told.contains(&format!("{role} down")), "{told}");
    assert!(!told.contains("SIGKILL") && !told.contains("timed out"), "{told}");
}

fn removed(machine: &Machine) {
    machine.does("dpkg -r nearfield-core nearfield-edge nearfield-dns nearfield-tools");
    for (role, program) in ROLES {
        assert!(
            !machine.run(&format!("pgrep -x {program} || systemctl is-active nearfield-{role}")).0,
            "{role} still runs"
        );
        assert!(machine.path(&format!("/etc/nearfield/{role}/node.key")).is_file(), "removed, not purged");
    }
    machine.does("dpkg -P nearfield-core nearfield-edge nearfield-dns");
    assert!(!machine.path("/etc/nearfield").exists(), "purged: no key is left");
    assert!(machine.path("/var/lib/nearfield/core/core.redb").is_file(), "words are the operator's to remove");
}

#[test]
fn a_unit_lets_the_longest_drain_end() {
    for (role, key) in [("core", "limits.drain_seconds"), ("edge", "capacity.drain_seconds")] {
        let unit = fs::read_to_string(root().join(format!("deploy/debian/nearfield-{role}.service"))).unwrap();
        let stop = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap();
        assert!(stop.parse::<u32>().unwrap() > 600, "{key} may be 600");
    }
}
