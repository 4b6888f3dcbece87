//! `init` writes what `check` accepts, and nothing over anything.

use std::fs;

use ksos_tests::{compose, copy_project, repository, run};

#[test]
fn every_template_passes_check_for_both_architectures() {
    let directory = tempfile::tempdir().unwrap();
    copy_project(directory.path());
    fs::create_dir_all(directory.path().join("docs/schema")).unwrap();
    fs::copy(
        repository().join("docs/schema/manifest.schema.json"),
        directory.path().join("docs/schema/manifest.schema.json"),
    )
    .unwrap();
    for template in ["kubesolo", "cloud", "containerd"] {
        for (arch, other) in [("x86_64", "arm64"), ("arm64", "x86_64")] {
            let to = format!("sites/{template}/{arch}.toml");
            let mut command = compose(directory.path());
            command.args(["init", &to, "--template", template, "--arch", arch, "--name", "edge-1"]);
            assert_eq!(run(&mut command).expect_code(0).stdout, format!("{to}\n"));
            let text = fs::read_to_string(directory.path().join(&to)).unwrap();
            let schema = text.lines().next().unwrap().strip_prefix("#:schema ").unwrap();
            assert!(directory.path().join("sites").join(template).join(schema).exists(), "{schema}");
            assert!(!text.contains('@') && text.contains("name = \"edge-1\""), "{text}");
            for arch in [arch, other] {
                let runtime = ["--component", "runtime=/dev/null"];
                run(compose(directory.path()).args(["check", &to, "--arch", arch]).args(runtime)).expect_code(0);
            }
            let outcome = run(&mut command).expect_code(2);
            assert!(outcome.stderr.contains("exists; nothing was written"), "{}", outcome.stderr);
            assert_eq!(fs::read_to_string(directory.path().join(&to)).unwrap(), text);
        }
    }
}

/// What is commented out is what people turn on first.
#[test]
fn commented_sections_are_sections_that_exist() {
    let directory = tempfile::tempdir().unwrap();
    copy_project(directory.path());
    for template in ["kubesolo", "containerd"] {
        let file = directory.path().join(format!("{template}.toml"));
        run(compose(directory.path()).args(["init", &format!("{template}.toml"), "--template", template]))
            .expect_code(0);
        let text = fs::read_to_string(&file).unwrap();
        let code = |line: &&str| line.starts_with("# [") || line.starts_with("# ") && line.contains(" = ");
        let on: Vec<&str> =
            text.lines().map(|line| if code(&line) { line.trim_start_matches("# ") } else { line }).collect();
        fs::write(&file, on.join("\n")).unwrap();
        fs::create_dir_all(directory.path().join("overlay")).unwrap();
        fs::create_dir_all(directory.path().join("keys")).unwrap();
        run(compose(directory.path()).args(["keygen", "--out", &format!("keys/{template}")])).expect_code(0);
        let public = directory.path().join("keys/release.pub");
        fs::copy(directory.path().join(format!("keys/{template}.pub")), public).unwrap();
        let runtime = ["--component", "runtime=/dev/null"];
        run(compose(directory.path()).arg("check").arg(&file).args(runtime)).expect_code(0);
    }
}

#[test]
fn a_workflow_comes_when_it_is_asked_for_and_names_the_manifest() {
    for (system, place) in [
        ("github", ".github/workflows/image.yml"),
        ("gitlab", ".gitlab-ci.yml"),
        ("gitea", ".gitea/workflows/image.yml"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        copy_project(directory.path());
        fs::create_dir(directory.path().join(".git")).unwrap();
        fs::write(directory.path().join(".gitignore"), "/target").unwrap();
        let mut command = compose(directory.path());
        let outcome = run(command.args(["init", "site/node.toml", "--ci", system])).expect_code(0);
        assert_eq!(outcome.stdout.lines().count(), 3, "{}", outcome.stdout);
        let text = fs::read_to_string(directory.path().join(place)).unwrap();
        assert!(text.contains("MANIFEST: site/node.toml\n"), "{text}");
        assert_eq!(fs::read_to_string(directory.path().join(".gitignore")).unwrap(), "/target\n/out/\n");
        // A workflow that is there stays, and then no manifest is written either.
        fs::write(directory.path().join(place), "mine").unwrap();
        run(compose(directory.path()).args(["init", "other", "--ci", system])).expect_code(2);
        assert_eq!(fs::read_to_string(directory.path().join(place)).unwrap(), "mine");
        assert!(!directory.path().join("other").exists());
    }
}

#[test]
fn what_cannot_be_an_image_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let outcome = run(compose(directory.path()).arg("init")).expect_code(2);
    assert!(outcome.stderr.contains("no manifests of KubeSolo OS (base.toml)"), "{}", outcome.stderr);
    let outcome = run(compose(directory.path()).args(["init", "--manifests", "."])).expect_code(2);
    assert!(outcome.stderr.contains("(base.toml) in ."), "{}", outcome.stderr);
    copy_project(directory.path());
    for name in ["", "With Space", "a\"b", "-x"] {
        run(compose(directory.path()).arg("init").arg(format!("--name={name}"))).expect_code(2);
    }
    assert!(!directory.path().join("kubesolo-os.toml").exists());
    let left = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(left.into_iter().all(|name| !name.starts_with('.')), "nothing temporary stays");
}
