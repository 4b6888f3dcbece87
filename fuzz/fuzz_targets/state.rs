//! What updates keep on the data partition: whatever is there, it is read, mended and written again.
#![no_main]

use libfuzzer_sys::fuzz_target;

use ksos_runtime::sys::double::Double;
use ksos_runtime::sys::Sys;
use ksos_runtime::update::journal::Journal;
use ksos_runtime::update::quarantine::Quarantine;
use ksos_runtime::update::{floor, history};

const DIRECTORY: &str = "/data/ksos/update";

thread_local! {
    static SYS: Double = Double::new();
}

fuzz_target!(|bytes: &[u8]| {
    let Some((which, bytes)) = ksos_fuzz::choose(bytes, 5) else { return };
    SYS.with(|sys| {
        let put = |name: &str, bytes: &[u8]| sys.put(&format!("{DIRECTORY}/{name}"), bytes);
        match which {
            0 => {
                put("state.json", bytes);
                let (journal, damage) = Journal::read(sys, DIRECTORY);
                if damage.is_none() {
                    journal.write(sys, DIRECTORY).expect("written");
                    assert_eq!(Journal::read(sys, DIRECTORY), (journal, None));
                }
            }
            1 | 2 => {
                // What the floor is rebuilt from, and the floor itself.
                put(if which == 1 { "floor.json" } else { "floor-2.json" }, bytes);
                let before = floor::read(sys, DIRECTORY).expect("damage is no error");
                let version = "1.2.3".parse().expect("a version");
                floor::raise(sys, DIRECTORY, &version).expect("raised");
                let after = floor::read(sys, DIRECTORY).expect("readable").expect("there is one");
                assert!(!after.is_older_than(&version) && before.is_none_or(|before| !after.is_older_than(&before)));
            }
            3 => {
                put("quarantine.json", bytes);
                let list = Quarantine::read(sys, DIRECTORY).expect("damage is no error");
                assert!(list.entries.len() <= bytes.len());
            }
            _ => {
                put("history.json", bytes);
                if let Ok(entries) = history::read(sys, DIRECTORY) {
                    let _ = (Quarantine::known(&entries), floor::known(sys, DIRECTORY));
                }
            }
        }
        for name in ["floor.json", "floor-2.json", "quarantine.json", "history.json"] {
            let _ = sys.remove(&format!("{DIRECTORY}/{name}"));
        }
    });
});
