#![expect(clippy::disallowed_methods, reason = "runs grub-script-check")]

use std::process::Command;

use super::*;

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn config(cmdline: &[String]) -> GrubConfig<'_> {
    GrubConfig { name: "kubesolo-os", arch: Arch::X86_64, cmdline, slot_a: 2, slot_b: 3, timeout: 0 }
}

#[test]
fn every_place_of_the_template_is_filled() {
    let cmdline = words(&["console=tty0", "console=ttyS0,115200", "a=$x;@NAME@"]);
    let text = grub_config(&config(&cmdline)).unwrap();
    assert!(text.contains(
        r#"linux "($ksos_slot)/vmlinuz" 'console=tty0' 'console=ttyS0,115200' 'a=$x;@NAME@' "ksos.slot=$1" "ksos.esp=$ksos_esp""#
    ));
    assert!(text.contains(r#"set ksos_slot="$ksos_disk,gpt3""#));
    assert_eq!(text.matches('@').count(), 2, "{text}");
    for copy in COPIES {
        assert!(text.contains(&format!("=/{copy}\n")));
    }
    assert!(text.contains("\"/EFI/ksos/slot-$1/confirmed.env\""));
    for (mark, slot) in MARKS.into_iter().zip(["a", "b"]) {
        assert_eq!(mark, format!("EFI/ksos/slot-{slot}/confirmed.env"));
    }
}

#[test]
fn values_that_would_leave_their_quotes_are_refused() {
    for parameter in ["a'b", "a\"b", "a b", "a\nb", "a\\b", "é", "a\tb", "\u{7f}"] {
        let cmdline = words(&[parameter]);
        let error = grub_config(&config(&cmdline)).unwrap_err();
        assert!(matches!(error, BootConfigError::Parameter { .. }), "{parameter:?}: {error}");
    }
    for parameter in ["ksos.slot=b", "ksos.esp=x", "ksos.slot"] {
        assert!(matches!(check_parameter(parameter), Err(BootConfigError::Reserved(_))));
    }
    assert_eq!(check_parameter(""), Err(BootConfigError::EmptyParameter));
    for name in ["", "-a", "a\"; reboot", "A", "a b"] {
        let error = grub_config(&GrubConfig { name, ..config(&[]) }).unwrap_err();
        assert_eq!(error, BootConfigError::Name(name.to_owned()));
    }
    for (slot_a, slot_b) in [(2, 2), (0, 3), (2, 0)] {
        let error = grub_config(&GrubConfig { slot_a, slot_b, ..config(&[]) }).unwrap_err();
        assert_eq!(error, BootConfigError::Partitions { slot_a, slot_b });
    }
    let cmdline = vec!["x".repeat(99); 20];
    assert_eq!(grub_config(&config(&cmdline)), Err(BootConfigError::TooLong { length: 2000 }));
}

#[test]
fn grub_accepts_the_script() {
    let cmdline = words(&["console=tty0", "a=$(b)`c`;|&<>{}[]*?#!%^~"]);
    for timeout in [0, 5] {
        let text = grub_config(&GrubConfig { timeout, ..config(&cmdline) }).unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        let Ok(output) = Command::new("grub-script-check").arg(file.path()).output() else {
            assert_ne!(std::env::var("KSOS_REQUIRE_TOOLS").as_deref(), Ok("1"), "grub-script-check is missing");
            println!("skipped: grub-script-check is not installed");
            return;
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn the_initial_boot_state_is_valid_in_both_copies() {
    let files = esp_files(&config(&[])).unwrap();
    assert_eq!(files.len(), 5);
    assert_eq!(Mark::decode(&files[MARKS[0]]), Ok(Mark { confirmed: true }));
    assert_eq!(Mark::decode(&files[MARKS[1]]), Ok(Mark { confirmed: false }));
    for copy in COPIES {
        assert_eq!(BootState::decode(&files[copy]), Ok(BootState::initial()));
    }
}
