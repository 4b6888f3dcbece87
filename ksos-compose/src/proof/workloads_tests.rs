use super::*;
use crate::manifest::Glob;

const HEX: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn preloaded(text: &str, digests: Option<&[&str]>) -> Preloaded {
    let digests = digests.map(|list| list.iter().map(|hex| hex.parse().unwrap()).collect());
    Preloaded { reference: text.parse::<Reference>().unwrap().or_latest(), digests }
}

fn globs(list: &[&str]) -> GlobSet {
    Glob::set(&list.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>()).unwrap()
}

fn check_with(preloaded: &[Preloaded], manifests: &[&str], allow_pull: &[&str], text: &str) -> Vec<Finding> {
    let workloads = Workloads { preloaded, manifests: globs(manifests), allow_pull: globs(allow_pull) };
    workloads.check(&File { path: "etc/app.yaml", shown: "overlay/app.yaml".to_owned(), bytes: text.as_bytes() })
}

fn check(text: &str) -> Vec<String> {
    let carried = [
        preloaded("hello:1", Some(&[HEX])),
        preloaded("registry.example:5000/team/app:2.0", None),
        preloaded("docker.io/library/late", Some(&[])),
    ];
    check_with(&carried, &[], &["quay.io/free/**"], text).iter().map(|finding| finding.message.clone()).collect()
}

fn pod(image: &str, more: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - name: a\n    image: {image}\n{more}")
}

#[test]
fn preloaded_images_are_found_under_every_form_of_their_name() {
    for image in [
        "hello:1",
        "docker.io/hello:1",
        "docker.io/library/hello:1",
        "index.docker.io/library/hello:1",
        &format!("hello@sha256:{HEX}"),
        &format!("hello:other@sha256:{HEX}"),
        "registry.example:5000/team/app:2.0",
        // Which digests it has is not known here.
        &format!("registry.example:5000/team/app@sha256:{HEX}"),
        "quay.io/free/thing:9",
        "\"quay.io/free/a/b\"",
    ] {
        assert_eq!(check(&pod(image, "")), Vec::<String>::new(), "{image}");
    }
}

#[test]
fn what_is_not_preloaded_is_named_with_its_place_and_the_nearest_name() {
    let text = pod("hello:2", "");
    let findings = check_with(&[preloaded("hello:1", None)], &[], &[], &text);
    assert_eq!(
        findings[0].to_string(),
        "/etc/app.yaml: overlay/app.yaml:6: container image docker.io/library/hello:2 is not preloaded [workload]\n  \
         hint: docker.io/library/hello:1 is preloaded; otherwise add a [container-images] entry, or \
         \"docker.io/library/hello*\" to workloads.allow-pull"
    );
    let other = HEX.replace("ba", "00");
    for image in
        ["hello", "team/hello:1", "registry.example/team/app:2.0", &format!("hello@sha256:{other}"), "quay.io/x:1"]
    {
        let said = check(&pod(image, ""));
        assert!(said.len() == 1 && said[0].contains("is not preloaded"), "{image}: {said:?}");
    }
    assert!(check(&pod("Hello:1", ""))[0].contains("is not an image reference"));
}

#[test]
fn policies_that_always_pull_are_refused() {
    for (text, expected) in [
        (pod("hello:1", "    imagePullPolicy: Always\n"), "imagePullPolicy Always"),
        (pod("late", ""), "means Always for the tag latest"),
        (pod("late:latest", ""), "means Always for the tag latest"),
    ] {
        let said = check(&text);
        assert!(said.len() == 1 && said[0].contains(expected) && said[0].contains("app.yaml:6:"), "{said:?}");
    }
    for text in [
        pod("hello:1", "    imagePullPolicy: IfNotPresent\n"),
        pod("late", "    imagePullPolicy: Never\n"),
        pod("quay.io/free/x:1", "    imagePullPolicy: Always\n"),
    ] {
        assert_eq!(check(&text), Vec::<String>::new());
    }
}

#[test]
fn images_that_are_volumes_are_looked_at() {
    let volume = |rest: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nspec:\n  volumes:\n  - name: data\n    image: {{{rest}}}\n  - {{name: none}}\n"
        )
    };
    assert_eq!(check(&volume("reference: hello:1, pullPolicy: IfNotPresent")), Vec::<String>::new());
    for (rest, expected) in [
        ("reference: model:1", "docker.io/library/model:1 is not preloaded"),
        ("reference: hello:1, pullPolicy: Always", "has pullPolicy Always"),
        ("reference: late", "has no pullPolicy, which means Always"),
    ] {
        let said = check(&volume(rest));
        assert!(said.len() == 1 && said[0].contains(expected) && said[0].contains("app.yaml:6:"), "{said:?}");
    }
}

#[test]
fn every_kind_that_makes_pods_is_looked_at() {
    let template = "template: {spec: {initContainers: [{image: bad:1}], ephemeralContainers: [{image: bad:2}]}}";
    let mut documents = Vec::new();
    for kind in ["Deployment", "DaemonSet", "StatefulSet", "ReplicaSet", "ReplicationController", "Job"] {
        documents.push(format!("apiVersion: apps/v1\nkind: {kind}\nspec: {{{template}}}\n"));
    }
    documents.push(format!("apiVersion: batch/v1\nkind: CronJob\nspec: {{jobTemplate: {{spec: {{{template}}}}}}}\n"));
    documents.push(format!("apiVersion: v1\nkind: PodTemplate\n{template}\n"));
    documents
        .push(format!("apiVersion: v1\nkind: List\nitems:\n- {{apiVersion: v1, kind: Job, spec: {{{template}}}}}\n"));
    documents.push(format!("apiVersion: v1\nkind: JobList\nitems:\n- {{spec: {{{template}}}}}\n"));
    let said = check(&documents.join("---\n"));
    assert_eq!(said.len(), 20, "{said:?}");
    // Lines count from the start of the file, not of the document.
    assert!(said[2].starts_with("overlay/app.yaml:7:"), "{}", said[2]);
    let custom = format!("apiVersion: example.com/v1\nkind: Machine\nspec: {{{template}}}\n");
    assert_eq!(check(&custom), Vec::<String>::new());
    assert_eq!(check("image: bad:1\n# apiVersion\n"), Vec::<String>::new());
}

#[test]
fn json_and_anchors_are_read() {
    let json = r#"{"apiVersion":"v1","kind":"Pod",
        "spec":{"containers":[{"image":"bad:1"}]}}"#;
    assert!(check(json)[0].starts_with("overlay/app.yaml:2: container image docker.io/library/bad:1"));
    let anchored = "apiVersion: v1\nkind: Pod\nx: &i bad:1\nspec:\n  containers:\n  - image: *i\n";
    assert!(check(anchored)[0].starts_with("overlay/app.yaml:6:"), "{:?}", check(anchored));
}

#[test]
fn what_is_no_yaml_is_said_and_only_wrong_where_it_is_called_a_manifest() {
    let template = "apiVersion: v1\nkind: Pod\nmetadata: {{ include \"x\" . }}\n{{- if .Values.a }}\n";
    let broken = "apiVersion: v1\nkind: [Pod\n";
    for (text, expected) in [(template, "template"), (broken, "not checked")] {
        let findings = check_with(&[], &[], &[], text);
        assert_eq!((findings.len(), findings[0].severity), (1, Severity::Note));
        assert!(findings[0].message.contains(expected), "{findings:?}");
    }
    assert_eq!(check_with(&[], &["etc/*.yaml"], &[], broken)[0].severity, Severity::Failure);
    assert_eq!(check_with(&[], &["etc/*.yaml"], &[], template)[0].severity, Severity::Note);
    let deep = format!("apiVersion: v1\nkind: Pod\nx: {}", "[".repeat(5000));
    assert_eq!(check_with(&[], &[], &[], &deep).len(), 1);
    let workloads = Workloads { preloaded: &[], manifests: globs(&["opt/**"]), allow_pull: globs(&[]) };
    assert!(workloads.wants("opt/x") && !workloads.wants("etc/a.yaml"));
}

#[test]
fn an_image_with_container_images_needs_ctr() {
    use crate::tree::{Content, Entry, Meta};
    let mut tree = Tree::new(0);
    assert!(importer(&tree, 0).is_none());
    assert!(importer(&tree, 1).unwrap().message.contains("ctr"));
    let file = |mode| Entry { meta: Meta::root(mode, 0), node: Node::File(Content::inline(&b"x"[..])) };
    tree.insert("usr/bin/ctr", file(0o644)).unwrap();
    assert!(importer(&tree, 1).is_some(), "it cannot be run");
    tree.insert("usr/bin/ctr", file(0o755)).unwrap();
    assert!(importer(&tree, 1).is_none());
}
