//! The commands that README, docs, the Makefile and the CI examples name, and what the command line says of itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ksos_compose::cli;
use ksos_tests::{compose, repository, run};

/// README and every page below docs/.
pub(super) fn pages() -> Vec<PathBuf> {
    let mut pages = vec![repository().join("README.md"), repository().join("CHANGELOG.md")];
    for directory in ["docs", "docs/design"] {
        let entries = fs::read_dir(repository().join(directory)).unwrap().map(|entry| entry.unwrap().path());
        pages.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    pages.sort();
    pages
}

/// Splits a line of a shell script into the words of its simple commands. Knows quotes, comments and what ends a command;
/// variables and patterns stay as they are written.
fn shell(line: &str) -> Vec<Vec<String>> {
    let (mut commands, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
    let mut quote = None;
    let mut characters = line.chars().peekable();
    let mut redirected = false;
    let end = |word: &mut Option<String>, words: &mut Vec<String>, redirected: &mut bool| {
        if let Some(word) = word.take()
            && !std::mem::take(redirected)
        {
            words.push(word);
        }
    };
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), close) if open == close => quote = None,
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (Some('"') | None, '\\') => word.get_or_insert_default().extend(characters.next()),
            (Some(_), other) => word.get_or_insert_default().push(other),
            (None, '#') if word.is_none() => break,
            (None, '>' | '<') => {
                // A number before it belongs to it.
                word = word.filter(|word| !word.bytes().all(|byte| byte.is_ascii_digit()));
                end(&mut word, &mut words, &mut redirected);
                redirected = true;
                characters.next_if(|next| *next == '>' || *next == '&');
            }
            (None, '|' | '&' | ';' | '(' | ')' | '`') => {
                end(&mut word, &mut words, &mut redirected);
                commands.push(std::mem::take(&mut words));
            }
            (None, space) if space.is_whitespace() => end(&mut word, &mut words, &mut redirected),
            (None, other) => word.get_or_insert_default().push(other),
        }
    }
    end(&mut word, &mut words, &mut redirected);
    commands.push(words);
    commands
}

/// Returns the command lines of ksos-compose in a script, its name first.
fn composer_lines(script: &str) -> Vec<Vec<String>> {
    let script = script.replace("\\\n", " ");
    let commands = script.lines().flat_map(shell);
    let of_composer = commands.filter_map(|words| {
        if let Some(at) = words.windows(3).position(|words| words == ["-p", "ksos-compose", "--"]) {
            return (words[0] == "cargo").then(|| [&["ksos-compose".to_owned()], &words[at + 3..]].concat());
        }
        let is_name = |word: &String| word == "ksos-compose" || word.ends_with("/ksos-compose");
        let at = words.iter().position(is_name)?;
        // What stands before it: sudo, variables, words of the shell; not the arguments of another program.
        let before = ["sudo", "do", "then", "if", "!", "time"];
        let names_it = words[..at].iter().all(|word| before.contains(&word.as_str()) || word.contains('='));
        names_it.then(|| words[at..].to_vec())
    });
    // The name alone is not a command.
    of_composer.filter(|words| words.len() > 1).collect()
}

/// Collects what is wrong with the command lines in `script`; returns how many there are.
fn check(place: &str, script: &str, faults: &mut Vec<String>) -> usize {
    let lines = composer_lines(script);
    for words in &lines {
        if let Some(fault) = cli::fault(words) {
            faults.push(format!("{place}: {}: {fault}", words.join(" ")));
        }
    }
    lines.len()
}

#[test]
fn command_lines_are_found_in_scripts() {
    let script = "sudo ksos-compose flash a.img # /dev/sdb\nx=1 ksos-compose build \\\n  a.toml 2>log >>\"$out\" | tee log\n\
                  cp ksos-compose bin/\ncargo run --release -p ksos-compose -- check 'a b.toml'\n\
                  for x in *; do ksos-compose sign \"$x\" --key env:K; done\necho ksos-compose\n";
    let found: Vec<String> = composer_lines(script).iter().map(|words| words.join(" ")).collect();
    let expected = [
        "ksos-compose flash a.img",
        "ksos-compose build a.toml",
        "ksos-compose check a b.toml",
        "ksos-compose sign $x --key env:K",
    ];
    assert_eq!(found, expected);
    assert!(cli::fault(&["ksos-compose".to_owned(), "bulid".to_owned()]).is_some());
}

#[test]
fn every_command_in_the_documentation_can_be_run() {
    let (mut faults, mut count) = (Vec::new(), 0);
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let mut blocks = text.split("\n```").skip(1).step_by(2).peekable();
        // Blocks in lists are indented.
        let indented = text.split("\n   ```").skip(1).step_by(2);
        let name = page.strip_prefix(repository()).unwrap().display().to_string();
        for block in blocks.by_ref().chain(indented) {
            if ["sh", "bash", "console", "shell"].iter().any(|kind| block.starts_with(&format!("{kind}\n"))) {
                count += check(&name, block.split_once('\n').unwrap().1, &mut faults);
            }
        }
    }
    assert!(count > 20, "{count} commands");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_command_in_the_ci_examples_can_be_run() {
    let directory = repository().join("examples/ci");
    for name in ["github.yml", "gitlab-ci.yml", "gitea.yml"] {
        let text = fs::read_to_string(directory.join(name)).unwrap();
        let document: serde_json::Value =
            serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut scripts = Vec::new();
        strings(&document, &mut scripts);
        let mut faults = Vec::new();
        let count: usize = scripts
            .iter()
            .map(|script| script.replace("${{ matrix.arch }}", "x86_64").replace("--arch $ARCH", "--arch x86_64"))
            .map(|script| check(name, &script, &mut faults))
            .sum();
        assert!(faults.is_empty(), "{}", faults.join("\n"));
        assert!(count >= 7, "{name}: {count} commands");
        for word in ["check", "build", "diff", "push", "sign"] {
            assert!(
                scripts.iter().any(|script| script.contains(&format!("ksos-compose {word} "))),
                "{name}: no {word}"
            );
        }
        for text in ["x86_64", "arm64", "cache"] {
            assert!(document.to_string().contains(text), "{name}: no {text}");
        }
    }
}

fn strings(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::String(text) => found.push(text.clone()),
        serde_json::Value::Array(items) => items.iter().for_each(|item| strings(item, found)),
        serde_json::Value::Object(fields) => fields.values().for_each(|item| strings(item, found)),
        _ => {}
    }
}

const TARGETS: [&str; 20] = [
    "fetch",
    "kernel",
    "kernel-arm64",
    "kernel-rpi",
    "rootfs",
    "rootfs-arm64",
    "initramfs",
    "iso",
    "disk-image",
    "disk-image-arm64",
    "rpi-image",
    "oci-image",
    "build-cross",
    "docker-build",
    "quick",
    "dev-vm",
    "test-boot",
    "test-boot-arm64-disk",
    "test-all",
    "bench",
];

#[test]
fn every_make_target_exists_and_what_it_calls_can_be_run() {
    if Command::new("make").arg("--version").output().is_err() {
        assert!(std::env::var_os("KSOS_REQUIRE_TOOLS").is_none(), "make is not installed");
        eprintln!("skipped: make is not installed");
        return;
    }
    let make = |arguments: &[&str]| {
        let mut command = Command::new("make");
        command.current_dir(repository()).args(arguments).arg("KSOS_COMPOSE=bin/ksos-compose");
        for variable in ["MAKEFLAGS", "MAKELEVEL", "FLAGS", "MANIFEST", "ARM64", "RPI", "OUT", "DISK", "EDGE_ID"] {
            command.env_remove(variable);
        }
        run(&mut command)
    };
    // `make -n` does not make it, but there must be a rule for what targets need.
    let with_composer = |target: &str| make(&["-n", "-o", "bin/ksos-compose", target]);
    let help = make(&["help"]).expect_code(0).stdout;
    for target in TARGETS {
        let script = with_composer(target).expect_code(0).stdout;
        let mut faults = Vec::new();
        let count = check(target, &script, &mut faults);
        assert!(faults.is_empty(), "{}", faults.join("\n"));
        let other = ["docker-build", "test-all", "bench"].contains(&target);
        assert!(count > 0 || other, "make {target} does not call ksos-compose: {script}");
        assert!(help.lines().any(|line| line.starts_with(&format!("{target} "))), "help has no {target}");
    }
    assert!(
        with_composer("test-all").stdout.contains("tests/run") && with_composer("bench").stdout.contains("tests/bench")
    );
    let script = make(&["-n", "-o", "bin/ksos-compose", "dev-vm", "EDGE_ID=7"]).expect_code(0).stdout;
    assert!(script.contains("--edge-id 7"), "{script}");
    let script = make(&["-n", "-o", "bin/ksos-compose", "flash", "IMAGE=x.img", "DISK=/dev/sdx"]).expect_code(0).stdout;
    assert!(script.contains("flash x.img /dev/sdx"), "{script}");
}

/// Those that need no disk image, really run.
#[test]
fn make_targets_write_what_they_say() {
    if Command::new("make").arg("--version").output().is_err() {
        assert!(std::env::var_os("KSOS_REQUIRE_TOOLS").is_none(), "make is not installed");
        eprintln!("skipped: make is not installed");
        return;
    }
    let project = super::Project::new();
    let out = project.path.join("made");
    for (target, suffix) in [("kernel", ".vmlinuz"), ("initramfs", ".initrd"), ("rootfs", ".root.squashfs")] {
        let mut command = Command::new("make");
        command.current_dir(repository()).arg(target).env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
        command.arg(format!("KSOS_COMPOSE={}", ksos_tests::composer().display()));
        command.arg(format!("MANIFEST={}", project.path.join(super::EXAMPLE).display()));
        command.arg(format!("OUT={}", out.display()));
        run(command.arg(format!("FLAGS=--component runtime={}", ksos_tests::runtime().display()))).expect_code(0);
        let made = out.join(format!("containerd-node-0.1.0-x86_64{suffix}"));
        assert!(fs::metadata(&made).is_ok_and(|data| data.len() > 100_000), "{}", made.display());
    }
}

#[test]
fn completions_are_scripts_that_know_every_command() {
    let directory = tempfile::tempdir().unwrap();
    for (shell, check) in [
        ("bash", Some(("bash", "-n"))),
        ("zsh", Some(("zsh", "-n"))),
        ("fish", Some(("fish", "--no-execute"))),
        ("powershell", None),
        ("elvish", None),
    ] {
        let script = run(compose(directory.path()).args(["completions", shell])).expect_code(0).stdout;
        for word in ["build", "flash", "--secure-boot", "completions"] {
            // fish has long options without their dashes.
            assert!(script.contains(word.trim_start_matches("--")), "{shell}: no {word}");
        }
        let file = directory.path().join(shell);
        fs::write(&file, script).unwrap();
        let Some((program, option)) = check else { continue };
        match Command::new(program).arg(option).arg(&file).output() {
            Ok(output) => assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr)),
            Err(_) if program == "bash" => panic!("bash is not installed"),
            Err(_) => eprintln!("not looked at by {program}, which is not installed"),
        }
    }
    // What bash completes with it.
    let script = "source ./bash; COMP_WORDS=(ksos-compose fl); COMP_CWORD=1; _ksos__compose ksos-compose fl ksos-compose; echo ${COMPREPLY[@]}";
    let outcome = run(Command::new("bash").current_dir(directory.path()).args(["-c", script])).expect_code(0);
    assert_eq!(outcome.stdout.trim(), "flash");
    run(compose(directory.path()).args(["completions", "dash"])).expect_code(2);
}

#[test]
fn every_command_has_a_manual_page_that_man_can_show() {
    let directory = tempfile::tempdir().unwrap();
    run(compose(directory.path()).args(["man", "--out", "man"])).expect_code(0);
    let pages = directory.path().join("man");
    let mut names: Vec<_> =
        fs::read_dir(&pages).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    for name in ["ksos-compose.1", "ksos-compose-build.1", "ksos-compose-flash.1", "ksos-compose-cache-gc.1"] {
        assert!(names.iter().any(|known| known == name), "{name} is not among {names:?}");
    }
    assert!(names.len() > 20 && !names.iter().any(|name| name.contains("help")), "{names:?}");
    let shown = |program: &str, arguments: &[&str], name: &str| {
        let output =
            Command::new(program).args(arguments).arg(pages.join(name)).env("MANWIDTH", "100").output().ok()?;
        assert!(output.status.success(), "{program} {name}: {}", String::from_utf8_lossy(&output.stderr));
        let text = [output.stdout, output.stderr].concat();
        Some(String::from_utf8_lossy(&text).into_owned())
    };
    let (mut man, mut mandoc) = (true, true);
    for name in &names {
        man &= shown("man", &["-l", "--warnings"], name).is_none_or(|text| !text.contains("warning:"));
        mandoc &= shown("mandoc", &["-Tlint", "-Wunsupp"], name).is_some();
    }
    assert!(man, "man warns");
    if !mandoc {
        eprintln!("not looked at by mandoc, which is not installed");
    }
    let text = fs::read_to_string(pages.join("ksos-compose-flash.1")).unwrap();
    assert!(text.contains("no\\-verify") && text.contains("DISK"), "{text}");
}

/// Ends of lines in a link's text are no ends of the link.
fn links(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("](") {
        rest = &rest[at + 2..];
        if let Some(end) = rest.find(')') {
            links.push(rest[..end].to_owned());
        }
    }
    links
}

/// Leaves out code: blocks and spans.
fn prose(text: &str) -> String {
    let blocks = text.split("```").step_by(2);
    blocks.map(|part| part.split('`').step_by(2).collect::<Vec<_>>().concat()).collect()
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.split("\n```").step_by(2).flat_map(str::lines).filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title.chars().filter(|character| character.is_alphanumeric() || " -_".contains(*character));
            kept.map(|character| if character == ' ' { '-' } else { character }).collect()
        })
        .collect()
}

#[test]
fn links_between_pages_lead_somewhere() {
    let (mut broken, mut count) = (Vec::new(), 0);
    for page in pages().into_iter().chain([repository().join("docs/README.md")]) {
        let text = fs::read_to_string(&page).unwrap();
        for link in links(&prose(&text)) {
            if link.starts_with("http") || link.starts_with("mailto:") {
                continue;
            }
            count += 1;
            let (path, anchor) =
                link.split_once('#').map_or((link.as_str(), None), |(path, anchor)| (path, Some(anchor)));
            let target = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            let lands = match anchor {
                _ if !target.exists() => false,
                Some(anchor) => anchors(&fs::read_to_string(&target).unwrap()).iter().any(|known| known == anchor),
                None => true,
            };
            if !lands {
                broken.push(format!("{}: {link}", page.strip_prefix(repository()).unwrap().display()));
            }
        }
    }
    assert!(count > 20, "{count} links");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_index_of_the_documentation_has_every_page() {
    let index = fs::read_to_string(repository().join("docs/README.md")).unwrap();
    let linked = links(&index);
    let missing: Vec<PathBuf> = pages()
        .into_iter()
        .filter_map(|page| page.strip_prefix(repository().join("docs")).ok().map(Path::to_owned))
        .filter(|page| page != Path::new("README.md"))
        .filter(|page| !linked.iter().any(|link| Path::new(link) == page))
        .collect();
    assert!(missing.is_empty(), "docs/README.md has no link to {missing:?}");
}
