//! What must not be taken for a document, what must not leak, and what must not end the program.

use super::*;

const FULL: &str = include_str!("../../../../examples/cloud-init/full.yaml");

#[test]
fn other_kinds_of_user_data_are_named() {
    for (bytes, expected) in [
        (&b"#!/bin/sh\nreboot\n"[..], "a script"),
        (b"\n#!/usr/bin/env python3\n", "a script"),
        (b"#include https://example/x\n", "a list of addresses to include"),
        (b"#include-once\nhttps://example/x\n", "a list of addresses to include"),
        (b"#cloud-boothook\n#!/bin/sh\n", "a boothook"),
        (b"#cloud-config-archive\n- type: x\n", "an archive"),
        (b"## template: jinja\n#cloud-config\n", "a template"),
        (b"Content-Type: multipart/mixed; boundary=x\nMIME-Version: 1.0\n", "MIME"),
        (b"MIME-Version: 1.0\n", "MIME"),
        (b"<html><title>404</title>", "HTML"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"\xff\xfeh\x00", "UTF-16"),
        (b"hostname: a\0", "zero bytes"),
    ] {
        let text = document_text(bytes).and_then(|text| parse_document(text).map(|_| text));
        let errors = text.expect_err("it is no document");
        assert!(errors[0].message.contains(expected), "{errors:?}");
        assert_eq!(errors.len(), 1);
    }
}

#[test]
fn bytes_that_are_not_utf8_have_a_place() {
    let errors = document_text(b"hostname: a\n# caf\xe9\n").unwrap_err();
    assert_eq!((errors[0].line, errors[0].column), (2, 6));
    assert!(errors[0].message.contains("UTF-8"));
}

#[test]
fn documents_over_the_limit_are_refused() {
    let text = format!("hostname: a\n#{}\n", "x".repeat(DOCUMENT_LIMIT));
    assert!(errors(&text)[0].contains("larger than 1048576 bytes"));
    assert!(document_text(text.as_bytes()).is_err());
}

#[test]
fn text_and_lists_are_no_documents() {
    for (text, expected) in [("hello\n", "found a text"), ("- a\n", "found a list"), ("hostname=a\n", "found a text")] {
        assert!(errors(text)[0].contains(expected), "{text}");
    }
}

#[test]
fn secrets_are_in_no_message_and_no_debug_output() {
    const SECRET: &str = "S3cr3tS3cr3tS3cr3t";
    // As they should be, and in each way in which a document can be wrong around them.
    let document = good(&format!(
        "kubesolo: {{portainer-edge-id: x, portainer-edge-key: {SECRET}}}\nkubeconfig: {{token: {SECRET}}}\nwrite_files: [{{path: /a, content: {SECRET}}}]\n"
    ));
    let resolved = resolve(None, Some(&document), None, &Document::default());
    assert!(kubesolo_file(&resolved.config.kubesolo).contains(SECRET));
    for shown in
        [format!("{document:?}"), format!("{resolved:#?}"), kubesolo_arguments(&resolved.config.kubesolo).join(" ")]
    {
        assert!(!shown.contains(SECRET), "{shown}");
    }
    for text in [
        format!("kubesolo: {{portainer-edge-key: '{SECRET} {SECRET}'}}\n"),
        format!("kubesolo: {{portainer-edge-key: [{SECRET}]}}\n"),
        format!("kubesolo: {{portainer-edge-key: {{{SECRET}: 1}}}}\n"),
        format!("kubesolo: {SECRET}\n"),
        format!("kubeconfig: {{token: '{SECRET}!'}}\n"),
        format!("kubeconfig: [{SECRET}]\n"),
        format!("kubeconfig: {{token: {SECRET}, token: {SECRET}}}\n"),
        format!("kubesolo:\n  portainer-edge-key: {SECRET}: {SECRET}\n"),
        format!("kubesolo:\n  portainer-edge-key: \"{SECRET}\n"),
        format!("write_files: [{{path: /a, content: [{SECRET}]}}]\n"),
        format!("write_files: [{{path: /a, encoding: b64, content: '{SECRET}!'}}]\n"),
    ] {
        let shown = format!("{:?}", parse_document(&text).expect_err("it is wrong"));
        assert!(!shown.contains(SECRET), "{text}{shown}");
    }
    let parameters =
        [("kubesolo.edge_key", Some(SECRET)), ("kubesolo.portainer-edge-key", Some("a b S3cr3tS3cr3tS3cr3t"))];
    let (document, warnings) = from_cmdline(parameters.into_iter());
    assert!(!format!("{document:?} {warnings:?}").contains(SECRET));
    assert!(is_secret_parameter("kubesolo.edge_key") && is_secret_parameter("kubesolo.portainer-edge-key"));
    assert!(!is_secret_parameter("kubesolo.debug") && !is_secret_parameter("ksos.hostname"));
}

/// No change of a byte, and no cut, ends the program; what is refused has a place in the document.
#[test]
fn mutated_documents_are_read_or_refused() {
    let check = |text: &str| {
        if let Err(errors) = parse_document(text) {
            let lines = text.split('\n').count();
            assert!(
                !errors.is_empty() && errors.iter().all(|error| (1..=lines + 1).contains(&error.line)),
                "{errors:?}"
            );
        }
        let _ = (parse_network_config(text), parse_meta_data(text));
    };
    let boundaries: Vec<usize> = (0..FULL.len()).filter(|index| FULL.is_char_boundary(*index)).step_by(23).collect();
    for &index in &boundaries {
        check(&FULL[..index]);
        let next = (index + 1..=FULL.len()).find(|index| FULL.is_char_boundary(*index)).unwrap();
        for replacement in ["", "\t", ":", "\n", "{", "\"", "&a ", "é"] {
            check(&format!("{}{replacement}{}", &FULL[..index], &FULL[next..]));
        }
    }
}

#[test]
fn long_values_are_cut_in_messages() {
    let found = errors(&format!("hostname: {}\n", "x".repeat(100_000)));
    assert!(found[0].len() < 400, "{}", found[0].len());
    let found = errors(&format!("hostname: \"a\\e[31m\\n{}\"\n", "y".repeat(10)));
    assert!(!found[0].contains('\u{1b}') && !found[0].contains('\n'), "{found:?}");
    let found = errors(&format!("? {}\n: 1\n", "k".repeat(100_000)));
    assert!(found[0].len() < 400, "{}", found[0].len());
}
