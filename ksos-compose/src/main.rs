//! The `ksos-compose` command.
#![expect(clippy::disallowed_methods, reason = "the binary reads the environment once and passes values in")]

mod inspect_view;
mod push;
mod releases;
mod render;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use ksos_compose::cache::Cache;
use ksos_compose::cli::{CacheCommand, Cli, Command, Global, Selection};
use ksos_compose::manifest;
use ksos_compose::ops::{self, Environment, LockMode, OpError, Reporter, Session, Target};

use crate::render::Terminal;

/// The manifest when none is named.
const DEFAULT_MANIFEST: &str = "kubesolo-os.toml";

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap's own exit codes: 0 for --help, 2 for usage errors.
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    let terminal = Arc::new(Terminal::new(cli.global.quiet, variable("NO_COLOR").is_none()));
    match run(cli, &terminal) {
        Ok(code) => code,
        Err(error) => {
            terminal.error(&error);
            ExitCode::from(error.problem().exit_code())
        }
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn run(cli: Cli, terminal: &Arc<Terminal>) -> Result<ExitCode, OpError> {
    let Cli { command, global } = cli;
    match command {
        Command::Schema { config } => {
            render::out(&if config { ops::config::schema_text() } else { manifest::schema_text() });
            Ok(ExitCode::SUCCESS)
        }
        Command::Check { config, json, .. } if !config.is_empty() => {
            Ok(terminal.checked_configs(&ops::config::check(&config), json))
        }
        Command::Check { selection, json, .. } => {
            let targets = targets(&selection)?;
            let results = ops::check::check(&targets);
            Ok(terminal.checked(&results, json))
        }
        Command::Build { selection, lock, out, only, fresh, json, sign_keys, public_keys, invocation_id } => {
            let session = session(&global, terminal)?;
            let sign = ops::build::SignOptions { keys: sign_keys, public_keys };
            let options =
                ops::build::Options { out: out.clone(), fresh, hash: json, lock: mode(lock), sign, invocation_id };
            let targets = targets(&selection)?;
            let results = match only.as_slice() {
                [] => ops::build::build(&session, &targets, &options),
                parts => ops::build::part::build(&session, &targets, parts, &options),
            };
            terminal.built(results, json)
        }
        Command::Plan { selection, lock, json } => {
            let session = session(&global, terminal)?;
            let plans = ops::build::plan(&session, &targets(&selection)?, mode(lock))?;
            terminal.planned(&plans, json);
            Ok(ExitCode::SUCCESS)
        }
        Command::Explain { selection, lock, out, all, json } => {
            let session = session(&global, terminal)?;
            let explained = ops::build::explain(&session, &targets(&selection)?, mode(lock), &out)?;
            terminal.explained(&explained, all, json);
            Ok(ExitCode::SUCCESS)
        }
        Command::Fetch { selection, lock } => {
            let session = session(&global, terminal)?;
            let fetched = ops::build::fetch(&session, &targets(&selection)?, mode(lock))?;
            terminal.fetched(&fetched);
            Ok(ExitCode::SUCCESS)
        }
        Command::Update { manifest, arch, components, dry_run } => {
            let session = session(&global, terminal)?;
            let manifest = manifest.unwrap_or_else(|| PathBuf::from(DEFAULT_MANIFEST));
            let changes = ops::update::update(&session, &manifest, &arch, &components, dry_run)?;
            terminal.updated(&changes, dry_run);
            Ok(ExitCode::SUCCESS)
        }
        Command::Diff { a, b, json } => {
            let cache = Cache::open(&cache_directory(&global)?)?;
            let difference = ops::diff::diff(&cache, &a, &b, jobs(&global))?;
            Ok(terminal.differed(&difference, json))
        }
        Command::Inspect { target, json } => {
            let inspection = ops::inspect::inspect(&session(&global, terminal)?, &target)?;
            terminal.inspected(&inspection, json);
            Ok(ExitCode::SUCCESS)
        }
        Command::Verify(arguments) if arguments.rebuild => {
            let session = session(&global, terminal)?;
            let components = arguments.components.into_iter().collect();
            let (manifest, lock) = (arguments.manifest.as_deref(), mode(arguments.lock));
            let target = Target { manifest: PathBuf::new(), arch: arguments.arch, components, formats: Vec::new() };
            let verified = ops::verify::rebuild(&session, Path::new(&arguments.target), manifest, &target, lock)?;
            Ok(terminal.verified(&verified))
        }
        Command::Verify(arguments) if ops::verify_artifact::is_artifact(&arguments.target) => {
            releases::verify(&session(&global, terminal)?, &arguments)
        }
        Command::Verify(arguments) => {
            let session = session(&global, terminal)?;
            let components = arguments.components.into_iter().collect();
            let target =
                Target { manifest: arguments.target.into(), arch: arguments.arch, components, ..Target::default() };
            let (image, out) = (arguments.image.as_deref(), PathBuf::from("out"));
            let verified = ops::verify::verify(&session, &target, image, &out, mode(arguments.lock))?;
            Ok(terminal.verified(&verified))
        }
        Command::Keygen { out, json } => releases::generate(&out, json),
        Command::Sign { target, keys, json } => releases::sign(&environment(), terminal.as_ref(), &target, &keys, json),
        Command::Keys { command } => releases::keys(&environment(), terminal.as_ref(), &command),
        Command::Publish { releases, to, options } => {
            releases::publish(&session(&global, terminal)?, &releases, &to, &options)
        }
        Command::Push(arguments) => push::push(&session(&global, terminal)?, &arguments),
        Command::Run(arguments) => run_image(&arguments, &global, terminal),
        Command::Test(arguments) => test_image(&arguments, &global, terminal),
        Command::Flash(arguments) => flash(&arguments, terminal),
        Command::Cache { command } => run_cache(&command, &global, terminal),
        Command::Init(arguments) => {
            terminal.started(&ops::init::init(&arguments)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Completions { shell } => {
            render::out(&ops::manual::completions(shell));
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { out } => {
            ops::manual::pages(&out)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn mode(lock: ksos_compose::cli::LockOptions) -> LockMode {
    LockMode { locked: lock.locked || lock.frozen, offline: lock.offline || lock.frozen }
}

fn targets(selection: &Selection) -> Result<Vec<Target>, OpError> {
    let default = [PathBuf::from(DEFAULT_MANIFEST)];
    let manifests = if selection.manifests.is_empty() { &default[..] } else { &selection.manifests };
    let mut targets = Vec::new();
    for manifest in manifests {
        let arches: Vec<_> = match selection.arch.as_slice() {
            [] => vec![None],
            arches => arches.iter().copied().map(Some).collect(),
        };
        for arch in arches {
            let components = selection.components.iter().cloned().collect();
            let formats = selection.formats.clone();
            targets.push(Target { manifest: manifest.clone(), arch, components, formats });
        }
    }
    Ok(targets)
}

fn environment() -> Environment {
    let variables: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    Environment {
        apt_mirror: variable("KSOS_APT_MIRROR"),
        source_date_epoch: variable("SOURCE_DATE_EPOCH"),
        variables,
        executable: std::env::current_exe().ok(),
        directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from(".")),
    }
}

fn cache_directory(global: &Global) -> Result<PathBuf, OpError> {
    let from_home = || variable("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let base = || variable("XDG_CACHE_HOME").map(PathBuf::from).or_else(from_home).map(|base| base.join("ksos"));
    global.cache.clone().or_else(base).ok_or(OpError::NoCacheDirectory)
}

fn jobs(global: &Global) -> usize {
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    global.jobs.unwrap_or(processors).max(1)
}

fn session(global: &Global, terminal: &Arc<Terminal>) -> Result<Session, OpError> {
    let cache = Cache::open(&cache_directory(global)?)?;
    Ok(Session {
        cache: Arc::new(cache),
        environment: environment(),
        jobs: jobs(global),
        reporter: terminal.clone(),
        progress: terminal.progress(),
        remote: ops::RemoteOptions {
            remote: global.remote.remote_cache.clone(),
            mode: global.remote.remote_cache_mode,
            keys: global.remote.remote_cache_keys.clone(),
            sign_key: global.remote.cache_sign_key.clone(),
        },
    })
}

fn run_image(
    arguments: &ksos_compose::cli::RunArguments,
    global: &Global,
    terminal: &Arc<Terminal>,
) -> Result<ExitCode, OpError> {
    let target = arguments.target.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_MANIFEST));
    let (image, arch) = if target.extension().is_some_and(|extension| extension == "toml") {
        let session = session(global, terminal)?;
        let components = arguments.components.iter().cloned().collect();
        // A disk boots, whatever else the manifest asks for.
        let formats = vec![manifest::OutputFormat::Disk];
        let target = Target { manifest: target, arch: arguments.arch, components, formats };
        let options = ops::build::Options {
            out: PathBuf::from("out"),
            fresh: false,
            hash: false,
            lock: mode(arguments.lock),
            sign: ops::build::SignOptions::default(),
            invocation_id: None,
        };
        let mut results = ops::build::build(&session, &[target], &options);
        let built = results.remove(0)?;
        terminal.built_one(&built);
        (built.disk()?, Some(built.arch))
    } else {
        (target, arguments.arch)
    };
    let options = ops::run::Request {
        arch,
        until: match (&arguments.until, &arguments.until_line) {
            (_, Some(text)) => ops::run::Until::Line(text.clone()),
            (Some(_), None) => ops::run::Until::Ready,
            (None, None) => ops::run::Until::Exit,
        },
        timeout: arguments.timeout,
        secure_boot: arguments.secure_boot,
        bios: arguments.bios,
        usb: arguments.usb,
        memory: &arguments.memory,
        disk_size: &arguments.disk_size,
        forwards: &arguments.forward,
        persist: arguments.persist.as_deref(),
        network: !arguments.no_network,
        config: arguments.config.as_deref(),
        network_config: arguments.network_config.as_deref(),
        edge: ops::run::EdgeOptions {
            id: arguments.edge_id.as_deref(),
            key: arguments.edge_key.as_deref(),
            asynchronous: arguments.edge_async,
        },
        kubeconfig: arguments.kubeconfig.as_deref(),
        extra: &arguments.qemu_arguments,
        interactive: std::io::stdin().is_terminal(),
        search_path: std::env::var_os("PATH").unwrap_or_default(),
    };
    let until = options.until.clone();
    let outcome = ops::run::boot(&image, &options, &mut std::io::stdout(), &|text| terminal.note(text))?;
    terminal.ran(&outcome);
    Ok(if outcome.is_success(&until, arguments.secure_boot) { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn test_image(
    arguments: &ksos_compose::cli::TestArguments,
    global: &Global,
    terminal: &Arc<Terminal>,
) -> Result<ExitCode, OpError> {
    let beside = |path: &PathBuf| path.parent().filter(|parent| !parent.as_os_str().is_empty()).map(PathBuf::from);
    let logs = arguments.logs.clone().or_else(|| arguments.junit.as_ref().and_then(beside));
    let logs = logs.unwrap_or_else(|| PathBuf::from("."));
    let keys = releases::open(&environment(), terminal.as_ref(), &arguments.keys)?;
    let release = arguments.update.as_ref().map(|next| next_release(next, arguments, global, terminal)).transpose()?;
    let update = match (&release, &arguments.source) {
        (Some(path), _) => Some(ops::test::Update::Release { path, keys: &keys }),
        (None, Some(path)) => Some(ops::test::Update::Tree { path, channel: &arguments.channel }),
        (None, None) => None,
    };
    let request = ops::test::Request {
        update,
        config: arguments.config.as_deref(),
        timeout: arguments.timeout,
        memory: &arguments.memory,
        secure_boot: arguments.secure_boot,
        extra: &arguments.qemu_arguments,
        logs: &logs,
        search_path: std::env::var_os("PATH").unwrap_or_default(),
    };
    let report =
        ops::test::test(&arguments.image, &request, &|text| terminal.note(text), &|case| terminal.tested_case(case))?;
    if let Some(path) = &arguments.junit {
        ops::test::write_junit(&report, path)?;
    }
    Ok(terminal.tested(&report, arguments.json))
}

/// Returns the release to test: the one that is named, or that of a manifest, which is built.
fn next_release(
    next: &Path,
    arguments: &ksos_compose::cli::TestArguments,
    global: &Global,
    terminal: &Arc<Terminal>,
) -> Result<PathBuf, OpError> {
    if next.extension().is_none_or(|extension| extension != "toml") {
        return Ok(next.to_owned());
    }
    let session = session(global, terminal)?;
    let components = arguments.components.iter().cloned().collect();
    let formats = vec![manifest::OutputFormat::Update];
    let target = Target { manifest: next.to_owned(), arch: None, components, formats };
    let options = ops::build::Options {
        out: PathBuf::from("out"),
        fresh: false,
        hash: false,
        lock: mode(arguments.lock),
        sign: ops::build::SignOptions::default(),
        invocation_id: None,
    };
    let built = ops::build::build(&session, &[target], &options).remove(0)?;
    terminal.built_one(&built);
    built.release()
}

fn run_cache(command: &CacheCommand, global: &Global, terminal: &Arc<Terminal>) -> Result<ExitCode, OpError> {
    let directory = cache_directory(global)?;
    match command {
        CacheCommand::Ls { json } => terminal.cache_listed(&ops::cache::ls(&directory)?, *json),
        CacheCommand::Gc { max_age, max_size } => {
            terminal.cache_collected(&ops::cache::gc(&directory, *max_age, max_size.as_deref())?);
        }
        CacheCommand::Verify => {
            let report = ops::cache::verify(&directory, global.jobs.unwrap_or(2))?;
            return Ok(terminal.cache_verified(&report));
        }
        CacheCommand::Push { selection, lock } => {
            let session = session(global, terminal)?;
            terminal.cache_moved(&ops::build::push_cache(&session, &targets(selection)?, mode(*lock))?);
        }
        CacheCommand::Pull { selection, lock } => {
            let session = session(global, terminal)?;
            terminal.cache_moved(&ops::build::pull_cache(&session, &targets(selection)?, mode(*lock))?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn flash(arguments: &ksos_compose::cli::FlashArguments, terminal: &Arc<Terminal>) -> Result<ExitCode, OpError> {
    use ops::flash::{Candidate, FlashError, Image, Places};
    let Some(image) = &arguments.image else {
        terminal.disks(&ops::flash::list(&Places::default())?, arguments.json);
        return Ok(ExitCode::SUCCESS);
    };
    let Some(disk) = &arguments.disk else {
        terminal.disks(&ops::flash::list(&Places::default())?, arguments.json);
        return Err(FlashError::NoDisk.into());
    };
    let request = ops::flash::Request { image, disk, force: arguments.force, verify: !arguments.no_verify };
    let confirm = |disk: &Candidate, image: &Image| {
        terminal.before_flash(disk, image);
        arguments.yes || (std::io::stdin().is_terminal() && terminal.asked(&disk.name))
    };
    let flashed = ops::flash::flash(&request, terminal.as_ref(), &*terminal.progress(), &confirm)?;
    terminal.flashed(&flashed, arguments.json);
    Ok(ExitCode::SUCCESS)
}
