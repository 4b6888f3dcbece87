//! The `modprobe` applet: called by the kernel as `modprobe -q -- ALIAS`, by container software, and by people.

use std::io::Write;

use crate::cmdline::Cmdline;
use crate::sys::{Sys, read_text};

use super::Loader;
use super::process::HARDWARE;

/// What the arguments ask for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    quiet: bool,
    all: bool,
    remove: bool,
    dry: bool,
    hardware: bool,
    names: Vec<String>,
    options: String,
}

fn parse(arguments: &[String]) -> Result<Request, String> {
    let mut request = Request::default();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--" => request.names.extend(words.by_ref().cloned()),
            "--quiet" => request.quiet = true,
            "--all" => request.all = true,
            "--remove" => request.remove = true,
            HARDWARE => request.hardware = true,
            "--dry-run" | "--show" => request.dry = true,
            long if long.starts_with("--") => return Err(format!("unknown option {long}")),
            short if short.len() > 1 && short.starts_with('-') => {
                for letter in short.chars().skip(1) {
                    match letter {
                        'q' | 'b' | 's' => request.quiet = true,
                        'v' => {}
                        'a' => request.all = true,
                        'r' => request.remove = true,
                        'n' => request.dry = true,
                        other => return Err(format!("unknown option -{other}")),
                    }
                }
            }
            name => request.names.push(name.to_owned()),
        }
    }
    if request.names.is_empty() && !request.hardware {
        return Err("usage: modprobe [-q] [-a] [-n] [-r] [--] NAME|ALIAS [OPTION...]".to_owned());
    }
    if !request.all && !request.remove && !request.names.is_empty() {
        request.options = request.names.split_off(1).join(" ");
    }
    Ok(request)
}

/// Runs the applet; returns its exit status.
pub fn modprobe(sys: &dyn Sys, arguments: &[String], out: &mut dyn Write, errors: &mut dyn Write) -> i32 {
    let request = match parse(arguments) {
        Ok(request) => request,
        Err(message) => {
            let _ = writeln!(errors, "modprobe: {message}");
            return 2;
        }
    };
    let cmdline = Cmdline::parse(&read_text(sys, "/proc/cmdline").unwrap_or_default());
    let loader = match Loader::open(sys, &cmdline) {
        Ok(loader) if request.dry => loader.dry(),
        Ok(loader) => loader.with_options(request.options.clone()),
        Err(error) => return report(&request, &error.to_string(), errors),
    };
    let mut status = 0;
    if request.hardware {
        for error in loader.load_for_hardware().1 {
            status = report(&request, &error.to_string(), errors);
        }
    }
    for name in &request.names {
        let result = if request.remove { loader.unload(name).map(|()| Vec::new()) } else { loader.load(name) };
        match result {
            Ok(paths) if request.dry => paths.iter().for_each(|path| {
                let _ = writeln!(out, "insmod {path}");
            }),
            Ok(_) => {}
            Err(error) => status = report(&request, &error.to_string(), errors),
        }
    }
    status
}

fn report(request: &Request, message: &str, errors: &mut dyn Write) -> i32 {
    if !request.quiet {
        let _ = writeln!(errors, "modprobe: {message}");
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::double::Double;

    fn call(sys: &Double, arguments: &[&str]) -> (i32, String, String) {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        let status = modprobe(sys, &arguments, &mut out, &mut errors);
        (status, String::from_utf8(out).expect("text"), String::from_utf8(errors).expect("text"))
    }

    fn machine() -> Double {
        let sys = Double::new();
        sys.put("/lib/modules/6.12.0-test/modules.dep", "a.ko: b.ko\nb.ko:\n");
        sys.put("/lib/modules/6.12.0-test/modules.alias", "alias net-pf-10 a\n");
        sys
    }

    #[test]
    fn the_kernels_call_loads_by_alias_and_is_quiet() {
        let sys = machine();
        assert_eq!(call(&sys, &["-q", "--", "net-pf-10"]).0, 0);
        assert_eq!(sys.calls_of("load ").len(), 2);
        assert_eq!(call(&sys, &["-q", "--", "net-pf-99"]), (1, String::new(), String::new()));
    }

    #[test]
    fn hardware_is_all_devices_there_are() {
        let sys = machine();
        sys.put("/sys/bus/pci/devices/0/modalias", "net-pf-10\n");
        assert_eq!(call(&sys, &["-qa", "--hardware"]), (0, String::new(), String::new()));
        assert_eq!(sys.calls_of("load ").len(), 2);
        sys.fail("load", "Exec format error");
        let (status, _, errors) = call(&sys, &["--hardware"]);
        assert!(status == 1 && errors.contains("Exec format error"), "{errors}");
    }

    #[test]
    fn dry_run_prints_removal_removes_and_errors_are_named() {
        let sys = machine();
        let listing = "insmod /lib/modules/6.12.0-test/b.ko\ninsmod /lib/modules/6.12.0-test/a.ko\n";
        assert_eq!(call(&sys, &["-n", "a"]), (0, listing.to_owned(), String::new()));
        assert!(sys.calls_of("load ").is_empty());
        assert_eq!(call(&sys, &["-r", "a"]).0, 0);
        assert_eq!(sys.calls_of("unload "), ["unload a", "unload b"]);
        assert_eq!(call(&sys, &["a", "x=1", "y=2"]).0, 0);
        assert_eq!(sys.calls_of("load ")[1], "load /lib/modules/6.12.0-test/a.ko x=1 y=2");
        assert_eq!(call(&sys, &["-aq", "a", "none"]).0, 1);
        assert!(call(&sys, &["none"]).2.contains("no module or alias \"none\""));
        assert_eq!(call(&sys, &["-Z", "a"]), (2, String::new(), "modprobe: unknown option -Z\n".to_owned()));
        assert_eq!(call(&sys, &[]).0, 2);
    }
}
