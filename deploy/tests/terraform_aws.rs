//! `region-aws` without a cloud: its plan against the provider's schema, a policy scan, and its boot script run for real.
//!
//! What stands in for Amazon: a provider that only has a schema, mocked by Terraform; and for the script its metadata service,
//! `aws`, and `apt-get`.
#![allow(clippy::unwrap_used)]

mod machine;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use machine::{Machine, binaries, build_packages, cache, root};
use nix::sched::{CloneFlags, setns};
use serde_json::json;

const MODULE: &str = "deploy/terraform/modules/region-aws";

/// A folder with a copy of some Terraform, and a provider that has its schema.
struct Offline(tempfile::TempDir);

impl Offline {
    /// Of `module`, changed by `change`.
    fn new(change: impl Fn(String) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let module = dir.path().join("module");
        fs::create_dir_all(module.join("tests")).unwrap();
        for folder in ["", "tests"] {
            for entry in fs::read_dir(root().join(MODULE).join(folder)).unwrap().flatten() {
                if entry.path().is_file() {
                    let text = fs::read_to_string(entry.path()).unwrap();
                    fs::write(module.join(folder).join(entry.file_name()), change(text)).unwrap();
                }
            }
        }
        Self(dir)
    }

    fn mirror(&self) -> (bool, String) {
        let mut mirror = Command::new(root().join("deploy/terraform/offline/mirror"));
        mirror.arg(cache().join("venv-terraform/bin/python")).arg(cache().join("provider-aws.tgz"));
        run(mirror.args([self.path("mirror"), self.path("module")]))
    }

    fn terraform(&self, arguments: &[&str]) -> (bool, String) {
        run(Command::new("terraform")
            .args(arguments)
            .arg("-no-color")
            .current_dir(self.path("module"))
            .env("TF_CLI_CONFIG_FILE", self.path("mirror/terraformrc"))
            .env("TF_IN_AUTOMATION", "1"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What `validate` says.
    fn validated(&self) -> (bool, String) {
        succeeds(self.mirror());
        succeeds(self.terraform(&["init"]));
        self.terraform(&["validate"])
    }
}

fn run(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}: `./dev test` installs it"));
    (
        output.status.success(),
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
    )
}

fn succeeds((success, said): (bool, String)) -> String {
    assert!(success, "{said}");
    said
}

#[test]
fn a_region_is_planned_and_what_is_out_of_range_refused() {
    let format =
        Command::new("terraform").args(["fmt", "-check", "-recursive"]).arg(root().join("deploy/terraform")).output();
    assert!(format.unwrap().status.success(), "terraform fmt -recursive deploy/terraform");
    let offline = Offline::new(|text| text);
    succeeds(offline.validated());
    let said = succeeds(offline.terraform(&["test"]));
    assert!(said.contains("0 failed"), "{said}");
}

#[test]
fn the_checker_finds_what_is_misspelt_missing_and_unknown() {
    for (right, wrong, told) in [
        ("heartbeat_timeout ", "heart_beat_timeout ", "\"heart_beat_timeout\" is not expected here"),
        ("  max_size                  = 1\n", "", "\"max_size\" is required"),
        ("http_tokens ", "http_token ", "\"http_token\" is not expected here"),
    ] {
        let (valid, said) = Offline::new(|text| text.replace(right, wrong)).validated();
        assert!(!valid && said.contains(told), "{wrong}: {said}");
    }
    let (known, said) = Offline::new(|text| text.replace("\"aws_eip\"", "\"aws_eipp\"")).mirror();
    assert!(!known && said.contains("there is no resource \"aws_eipp\""), "{said}");
}

#[test]
fn a_policy_scan_has_nothing_to_say_but_the_exceptions_that_are_explained() {
    let mut checkov = Command::new(cache().join("venv-checkov/bin/checkov"));
    checkov.args(["--framework", "terraform", "--quiet", "--compact", "--skip-download", "--directory"]);
    succeeds(run(checkov.arg(root().join(MODULE))));
}

/// What the module makes of its templates, with these for the instance's own.
fn boot(role: &str, package: &Path, sha256: &str) -> (String, String) {
    let text = |value: &str| format!("{value:?}");
    let settings = format!(
        "templatefile(\"node.toml.tftpl\", {{name = \"{role}-eu-central-1\", role = \"{role}\", region = \"eu-central\", \
         domain = \"mesh.example.com\", seeds = [], trust_domain = \"nearfield.internal\", relay_ranges = [\"10.1.0.0/16\"], \
         drain_seconds = 10}})"
    );
    let of = |only: &str, value: &str| if role == only { text(value) } else { "\"\"".to_owned() };
    let (model, token) = match role {
        "core" => ("{url = \"https://e.example/m\", sha256 = \"0\"}", "\"arn:token\""),
        _ => ("null", "null"),
    };
    let script = format!(
        "templatefile(\"boot.sh.tftpl\", {{name = \"{role}-eu-central-1\", role = \"{role}\", aws_region = \"eu-central-1\", \
         package = {{url = {}, sha256 = {}}}, model = {model}, certificate = \"arn:certificate\", api_token = {token}, \
         volume = {}, address = {}, public = {}, group = \"nearfield-{role}-eu-central-1\", drain_seconds = 10, settings = {settings}}})",
        text(&format!("file://{}", package.display())),
        text(sha256),
        of("core", "vol-0123456789abcdef0"),
        of("dns", "eipalloc-0123456789abcdef0"),
        of("dns", "203.0.113.7"),
    );
    (rendered(&script), rendered(&settings))
}

/// An expression's value, as Terraform sees it in the module's folder, but without its provider.
fn rendered(expression: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    for name in ["boot.sh.tftpl", "node.toml.tftpl"] {
        fs::copy(root().join(MODULE).join(name), dir.path().join(name)).unwrap();
    }
    let mut console = Command::new("terraform");
    console.arg("console").current_dir(dir.path()).env("TF_CLI_CONFIG_FILE", "/dev/null");
    let mut console = console.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    console.stdin.take().unwrap().write_all(format!("jsonencode({expression})\n").as_bytes()).unwrap();
    let said = console.wait_with_output().unwrap();
    let quoted: String = serde_json::from_slice(&said.stdout).unwrap_or_else(|error| panic!("{error}: {expression}"));
    serde_json::from_str(&quoted).unwrap()
}

#[test]
fn settings_are_right_for_every_role() {
    let dir = tempfile::tempdir().unwrap();
    for role in ["edge", "core", "dns"] {
        let (script, settings) = boot(role, Path::new("/mnt/x.deb"), "0");
        let settings = settings.replace("@PUBLIC@", "203.0.113.7").replace("@PRIVATE@", "10.80.0.7");
        let at = dir.path().join(format!("{role}.toml"));
        fs::write(&at, settings).unwrap();
        let mut check = Command::new(binaries().join("nearfield"));
        check.args(["check", "--values-only"]).arg(&at);
        // Of secrets, only the instance knows: the token comes as the unit's environment.
        succeeds(run(check.env("NEARFIELD_CORE__API__TOKEN", "0123456789abcdef")));
        let at = dir.path().join("boot.sh");
        fs::write(&at, script).unwrap();
        succeeds(run(Command::new("bash").arg("-n").arg(at)));
    }
}

#[test]
fn the_boot_script_makes_a_node_that_drains_before_its_instance_ends() {
    if !Machine::can_be() {
        return;
    }
    let files = tempfile::tempdir().unwrap();
    build_packages(files.path(), "1.0.0");
    secret(files.path());
    let package = fs::read_dir(files.path()).unwrap().flatten().find(|file| {
        let name = file.file_name();
        name.to_string_lossy().starts_with("nearfield-edge_")
    });
    let package = package.unwrap().path();
    let sum = succeeds(run(Command::new("sha256sum").arg(&package)));
    let there = Path::new("/mnt").join(package.file_name().unwrap());
    let machine = Machine::boot(files.path());
    stand_ins(&machine);
    let ending = metadata_service(&machine);

    machine.write("/root/wrong.sh", &boot("edge", &there, &"0".repeat(64)).0);
    let (booted, said) = machine.run("bash /root/wrong.sh");
    assert!(!booted && said.contains("its SHA-256 differs"), "{said}");
    assert!(!machine.path("/usr/bin/edge-node").exists(), "another's package is not installed");

    machine.write("/root/boot.sh", &boot("edge", &there, &sum[..64]).0);
    let said = machine.does("bash /root/boot.sh 2>&1");
    assert!(said.ends_with("nearfield: up") && !said.contains("PRIVATE KEY"), "{said}");
    machine.does("curl -sf http://127.0.0.1:8080/healthz && systemctl is-active nearfield-edge nearfield-drain");
    assert_eq!(machine.does("stat -c '%a %U %G' /etc/nearfield/edge/node.key"), "640 root nearfield-edge");
    machine.does("grep 'advertise = \"203.0.113.7:4433\"' /etc/nearfield/edge/edge.toml");

    ending.store(true, Ordering::SeqCst);
    machine.comes_to("grep 'complete-lifecycle-action.*nearfield-edge-eu-central-1.*i-0123' /var/log/aws");
    assert_eq!(machine.does("systemctl show -P Result nearfield-edge"), "success");
    machine.does("journalctl --no-pager -u nearfield-edge | grep 'edge down'");
    machine.comes_to("test $(systemctl show -P ActiveState nearfield-drain) = inactive");
}

/// A certificate as the operator has put it into Secrets Manager.
fn secret(files: &Path) {
    let certs = tempfile::tempdir().unwrap();
    let mut certificates = Command::new(binaries().join("nearfield"));
    succeeds(run(certificates.arg("certs").arg("--dir").arg(certs.path()).arg("edge-eu-central-1:edge:eu-central")));
    let read = |name: &str| fs::read_to_string(certs.path().join(name)).unwrap();
    let secret = json!({
        "ca": read("ca.pem"),
        "cert": read("edge-eu-central-1.pem"),
        "key": read("edge-eu-central-1.key"),
    });
    fs::write(files.join("secret.json"), secret.to_string()).unwrap();
}

fn stand_ins(machine: &Machine) {
    machine.write(
        "/usr/local/sbin/aws",
        "#!/bin/sh\necho \"$@\" >> /var/log/aws\n[ \"$1\" != secretsmanager ] || cat /mnt/secret.json\n",
    );
    machine.write(
        "/usr/local/sbin/apt-get",
        "#!/bin/sh\nfor last in \"$@\"; do :; done\ncase $last in *.deb) dpkg -i \"$last\" ;; esac\n",
    );
    machine.does("chmod 755 /usr/local/sbin/aws /usr/local/sbin/apt-get");
}

/// What every instance of Amazon's can ask, by IMDSv2: until what is returned is true, the instance is to stay.
fn metadata_service(machine: &Machine) -> Arc<AtomicBool> {
    let ending = Arc::new(AtomicBool::new(false));
    let network = fs::File::open(machine.network()).unwrap();
    let told = ending.clone();
    let address = ["--net", "ip", "address", "add", "169.254.169.254/32", "dev", "lo"];
    succeeds(run(Command::new("nsenter").arg(machine.target()).args(address)));
    let (up, is_up) = std::sync::mpsc::channel();
    thread::spawn(move || {
        setns(network, CloneFlags::CLONE_NEWNET).unwrap();
        let listener = TcpListener::bind("169.254.169.254:80").unwrap();
        up.send(()).unwrap();
        for mut stream in listener.incoming().flatten() {
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let head: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            let answer = answer(&head, told.load(Ordering::SeqCst));
            let (code, body) = answer.map_or(("404 Not Found", ""), |body| ("200 OK", body));
            let _ =
                write!(stream, "HTTP/1.1 {code}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    });
    is_up.recv().unwrap();
    ending
}

fn answer(head: &[String], ending: bool) -> Option<&'static str> {
    let request = head.first()?;
    if request.starts_with("PUT /latest/api/token ") {
        return Some("a-token");
    }
    head.iter().find(|line| line.to_lowercase() == "x-aws-ec2-metadata-token: a-token")?;
    match request.strip_prefix("GET /latest/meta-data/")?.split(' ').next()? {
        "instance-id" => Some("i-0123456789abcdef0"),
        "local-ipv4" => Some("10.80.0.7"),
        "public-ipv4" => Some("203.0.113.7"),
        "autoscaling/target-lifecycle-state" => Some(if ending { "Terminated" } else { "InService" }),
        _ => None,
    }
}
