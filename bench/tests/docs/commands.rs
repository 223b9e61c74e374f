//! Commands: each program, subcommand, flag and value is tried on the program itself, with `--help` behind it. Nothing is run
//! but that, and so nothing is changed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    names,
    page::{Page, Span, root},
    program_of,
    source::{folder, has_test, text},
};

/// Our programs.
const PROGRAMS: [&str; 5] = ["bench", "core-node", "edge-node", "geo-dns", "nearfield"];
/// Commands of `./dev` that hand on what follows to `bench`.
const HANDED_ON: [&str; 7] = ["demo", "failover", "adversary", "soak", "capacity", "vad", "words"];

/// Complaints about a page's commands.
pub(crate) fn wrong(page: &Page) -> Vec<String> {
    let told = |span: &Span, command: &str, why: String| format!("{}: {command}: {why}", page.at(span));
    let mut complaints = vec![];
    for script in &page.scripts {
        match commands(&script.text) {
            Ok(all) => complaints.extend(
                all.iter().filter_map(|command| Some(told(script, &command.join(" "), check(command, &page.path)?))),
            ),
            Err(line) => complaints.push(told(script, &line, "a quote is not closed".into())),
        }
    }
    for span in page.spans.iter().filter(|span| is_command(&span.text)) {
        match commands(&span.text) {
            Ok(all) => complaints
                .extend(all.iter().filter_map(|command| Some(told(span, &span.text, check(command, &page.path)?)))),
            Err(_) => complaints.push(told(span, &span.text, "a quote is not closed".into())),
        }
    }
    complaints
}

/// Whether what stands in backticks is a command of ours.
fn is_command(text: &str) -> bool {
    let mut words = text.split_whitespace();
    let (first, second) = (words.next().unwrap_or_default(), words.next());
    let ours = first == "./dev" || first.starts_with("target/") || PROGRAMS.contains(&first) || first == "cargo";
    ours && second.is_some()
}

/// The simple commands of a script, each as its words, without redirections and variables.
///
/// # Errors
/// A line whose quotes are not closed by the script's end.
fn commands(script: &str) -> Result<Vec<Vec<String>>, String> {
    let (mut all, mut open) = (vec![], String::new());
    for line in script.replace("\\\n", " ").lines() {
        open.push_str(line);
        // A quote may go on over lines.
        let Some(words) = shlex::split(&open) else {
            open.push('\n');
            continue;
        };
        open.clear();
        let mut simple = words.split(|word| matches!(word.as_str(), "|" | "&&" | "||" | "&" | ";"));
        all.extend(simple.by_ref().map(plain).filter(|words| !words.is_empty()));
    }
    if open.is_empty() { Ok(all) } else { Err(open) }
}

/// Without variables before it, `sudo`, and redirections.
fn plain(words: &[String]) -> Vec<String> {
    let is_variable = |word: &&String| {
        word.split('=').next().is_some_and(|n| n.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
            && word.contains('=')
    };
    let words: Vec<&String> = words.iter().skip_while(is_variable).skip_while(|word| *word == "sudo").collect();
    let mut plain = vec![];
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            ">" | "2>" | "<" => _ = words.next(),
            word => plain.push(word.to_owned()),
        }
    }
    plain
}

/// What is wrong with a command, if anything.
fn check(command: &[String], page: &Path) -> Option<String> {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let (&program, rest) = words.split_first()?;
    let wrong = match (program, rest) {
        ("./dev", [command, rest @ ..]) => dev(command, rest),
        ("cargo", ["test", rest @ ..]) => test(rest),
        ("cd", [folder]) => (!root().join(folder).is_dir()).then(|| "there is no such folder".into()),
        _ => None,
    };
    let built = program.strip_prefix("target/release/").or(program.strip_prefix("target/debug/")).unwrap_or(program);
    let wrong = wrong.or_else(|| (PROGRAMS.contains(&built)).then(|| takes(built, rest)).flatten());
    let unknown = program.starts_with("target/") && !PROGRAMS.contains(&built);
    let wrong = wrong.or_else(|| unknown.then(|| "no program of ours".into()));
    // A page within a folder may speak of that folder's files.
    let here = |word: &str| page.parent().is_some_and(|folder| root().join(folder).join(word).exists());
    wrong.or_else(|| words.iter().filter(|word| !here(word)).find_map(|word| names::path(word)))
}

/// A command of `./dev`, and what it hands on.
fn dev(command: &str, rest: &[&str]) -> Option<String> {
    let script = fs::read_to_string(root().join("dev")).unwrap();
    let known = script.split("case $command in").nth(1)?;
    let known = known.lines().filter_map(|line| line.split_once(')')).flat_map(|(names, _)| names.split('|'));
    if !known.map(str::trim).any(|known| known == command) {
        return Some("./dev has no such command".into());
    }
    let mut args = vec![command];
    args.extend(rest);
    HANDED_ON.contains(&command).then(|| takes("bench", &args)).flatten()
}

/// Whether a program takes these arguments: it reads them up to the `--help` behind them.
fn takes(program: &str, args: &[&str]) -> Option<String> {
    let output = program_of(program).args(args).arg("--help").output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}: cargo build --workspace --bins"));
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
    (!output.status.success()).then_some(said)
}

/// `cargo test -p PACKAGE [--test FILE] [NAME] [-- …]`.
fn test(args: &[&str]) -> Option<String> {
    let args: Vec<&str> = args.iter().copied().take_while(|arg| *arg != "--").collect();
    let after = |flag: &str| args.iter().position(|arg| *arg == flag).and_then(|at| args.get(at + 1)).copied();
    let Some(package) = after("-p") else { return Some("which package?".into()) };
    let package = root().join(folder(package));
    let values = [after("-p"), after("--test")];
    let name = args.iter().find(|arg| !arg.starts_with('-') && !values.contains(&Some(**arg)));
    let (file, inside): (PathBuf, PathBuf) = match after("--test") {
        Some(test) => (package.join(format!("tests/{test}.rs")), package.join("tests").join(test)),
        None => (package.join("src/lib.rs"), package.join("src")),
    };
    if !file.is_file() && !inside.join("main.rs").is_file() {
        return Some("there is no such test".into());
    }
    let code = fs::read_to_string(&file).unwrap_or_default() + &text(&inside);
    name.filter(|name| !has_test(&code, name)).map(|name| format!("no test has {name} in its name"))
}

#[test]
fn a_script_is_taken_apart_as_a_shell_does() {
    let script = "# a remark\nA=1 sudo x 'a b' \\\n  --flag 2> y &\nq -d '{\n  \"k\": 1\n}' | r # more\n";
    let all = commands(script).unwrap();
    assert_eq!(all, [vec!["x", "a b", "--flag"], vec!["q", "-d", "{\n  \"k\": 1\n}"], vec!["r"]]);
    assert!(commands("x 'open").is_err());
}

#[test]
fn what_is_wrong_is_told() {
    let of = |line: &str| check(&commands(line).unwrap()[0], Path::new("README.md"));
    for line in [
        "./dev nothing",
        "./dev failover --nothing",
        "target/release/bench failover --scenario nothing",
        "target/release/nothing",
        "target/release/core-node --nothing",
        "cargo test -p mesh --test nothing",
        "cargo test -p mesh --test cluster no_such_test",
        "cat docs/nothing.md",
        "cd deploy/nothing",
    ] {
        assert!(of(line).is_some(), "{line}");
    }
    for line in
        ["./dev failover --short", "cargo test -p mesh --test cluster traitor", "target/release/core-node repair"]
    {
        assert_eq!(of(line), None, "{line}");
    }
}
