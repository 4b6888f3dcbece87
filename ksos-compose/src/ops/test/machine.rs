//! QEMU's machines for the scenarios.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ksos_formats::update::CHUNKS_FILE;
use tempfile::TempDir;

use super::scenario::{Disk, Lab, Machine, Served};
use super::server::Server;
use crate::effects::fs::{Context, FsError};
use crate::ops::run::live::{Live, Sight};
use crate::ops::run::{Forward, RunOptions, Setup, kubeconfig, request};

/// Port of the node that serves its metrics.
const METRICS_PORT: u16 = 9100;
/// Time for one answer of the metrics endpoint: an emulated node is slow.
const METRICS_PATIENCE: Duration = Duration::from_secs(20);
/// Largest page of metrics in bytes.
const METRICS_LIMIT: u64 = 1 << 20;

/// The update source that the guest sees.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) server: Server,
    /// Path of the channel's document in the tree.
    pub(super) channel: String,
}

impl Source {
    fn served(&self) -> Served {
        let mut served = Served::default();
        for answer in self.server.answers() {
            if answer.path == self.channel && answer.status == 200 {
                served.looks += 1;
            } else if answer.path.rsplit('/').next() == Some(CHUNKS_FILE) {
                served.chunk_bytes += answer.bytes;
            }
        }
        served
    }
}

/// Makes machines of one image, each group on a disk of its own.
#[derive(Debug)]
pub(super) struct Qemu<'a> {
    image: &'a Path,
    options: RunOptions,
    setup: Setup,
    source: Option<Arc<Source>>,
    directory: TempDir,
    start: Instant,
}

impl<'a> Qemu<'a> {
    /// Disks and logs are in a temporary directory that goes with this value.
    pub(super) fn new(
        image: &'a Path,
        options: RunOptions,
        setup: Setup,
        source: Option<Source>,
    ) -> Result<Self, FsError> {
        let directory = tempfile::Builder::new().prefix("ksos-test-").tempdir();
        let directory = directory.context("create", Path::new("a temporary directory"))?;
        Ok(Qemu { image, options, setup, source: source.map(Arc::new), directory, start: Instant::now() })
    }

    /// Returns where the console of a group is logged.
    pub(super) fn log(&self, group: &str) -> PathBuf {
        self.directory.path().join(format!("{group}.log"))
    }
}

impl Lab for Qemu<'_> {
    fn start(&mut self, group: &'static str, disk: Disk) -> Result<Box<dyn Machine>, String> {
        let path = self.directory.path().join(format!("{group}.img"));
        if disk == Disk::New {
            request::copy(self.image, &path).map_err(|error| error.to_string())?;
        }
        let port = kubeconfig::free_port().map_err(|error| format!("no free port on loopback: {error}"))?;
        let mut options = self.options.clone();
        options.persist = true;
        options.forwards = vec![Forward { host: port, guest: METRICS_PORT }];
        let log = self.log(group);
        let log = OpenOptions::new().create(true).append(true).open(&log).context("create", &log);
        let live = Live::start(&path, &options, &self.setup).map_err(|error| error.to_string())?;
        let log = log.map_err(|error| error.to_string())?;
        let agent = ureq::Agent::config_builder().timeout_global(Some(METRICS_PATIENCE)).proxy(None).build();
        Ok(Box::new(Guest {
            live,
            log,
            port,
            agent: agent.new_agent(),
            source: self.source.clone(),
            start: self.start,
        }))
    }
}

/// A running QEMU.
struct Guest {
    live: Live,
    log: File,
    port: u16,
    agent: ureq::Agent,
    source: Option<Arc<Source>>,
    start: Instant,
}

impl Machine for Guest {
    fn next(&mut self, limit: Duration) -> Result<Sight, String> {
        self.live.next(Instant::now() + limit, &mut self.log).map_err(|error| error.to_string())
    }

    fn metrics(&mut self) -> Option<String> {
        let answer = self.agent.get(format!("http://127.0.0.1:{}/metrics", self.port)).call();
        let mut answer = answer.ok().filter(|answer| answer.status() == 200)?;
        answer.body_mut().with_config().limit(METRICS_LIMIT).read_to_string().ok()
    }

    fn reset(&mut self) -> Result<(), String> {
        self.live.reset().map_err(|error| format!("the machine cannot be reset: {error}"))
    }

    fn power_button(&mut self) -> Result<(), String> {
        self.live.power_button().map_err(|error| format!("the power button cannot be pressed: {error}"))
    }

    fn clock(&self) -> Duration {
        self.start.elapsed()
    }

    fn served(&self) -> Served {
        self.source.as_ref().map(|source| source.served()).unwrap_or_default()
    }
}
