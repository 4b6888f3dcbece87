//! The whole stage, over the double.

use ksos_formats::config::NodeConfig;
use ksos_formats::layout;

use super::*;
use crate::sys::double::Double;

/// A machine, its command line and its image.
pub(super) struct Bench {
    pub(super) sys: Double,
    pub(super) cmdline: Cmdline,
    pub(super) image: RuntimeConfig,
    boot: u64,
}

impl Bench {
    /// Returns a node with an image whose `/etc/kubesolo` persists.
    pub(super) fn new(cmdline: &str) -> Self {
        let mut image = crate::init::test_image();
        image.data.persist = vec!["/etc/kubesolo".to_owned()];
        let sys = Double::new();
        sys.make_directory("/etc/kubesolo", 0o755).expect("made");
        sys.calls.borrow_mut().clear();
        Bench { sys, cmdline: Cmdline::parse(cmdline), image, boot: 1 }
    }

    pub(super) fn context(&self) -> Context<'_> {
        Context { sys: &self.sys, cmdline: &self.cmdline, image: &self.image, data: "/data", boot: self.boot }
    }
}
