//! Where trust comes from: the bundle of each trust domain from one source, and our own SVID.
//!
//! - [`settings`]: what can be configured. [`files`]: files that are followed. [`federation`]: SPIFFE bundle endpoints.
//!   [`workload_api`]: a Workload API's stream, for bundles and for our own SVID.
//! - [`holder`]: how long a bundle counts whose source is silent. [`kept`]: where it outlives the process. [`probe`]: every source asked once, by hand.
//!
//! All of them write into one [`TrustBundles`], which acts on living connections by itself.

mod federation;
mod files;
mod holder;
mod kept;
mod probe;
mod settings;
mod workload_api;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::identity::bundle::{TrustBundle, TrustBundles};
use crate::identity::denied::{DeniedAuthorities, DeniedFile};
use crate::identity::own::{Ageing, CurrentSvid, SvidSource, Use};
use crate::identity::spiffe_id::TrustDomain;
use crate::time::Clock;

use federation::Federated;
use workload_api::{Member, Watched};

pub use federation::{BundleEndpoint, FetchError, Fetched};
pub use files::{BadBundleFile, BundleFiles};
pub use kept::{Found, Kept, KeptMark, OutOfReach, Shelf};
pub use probe::{Probed, Said, Unsaid, probe};
pub use settings::{
    BundleFrom, EndpointUrl, Federation, FromWorkloadApi, InvalidEndpointUrl, InvalidSocket, OwnFrom,
    Profile, Socket, Wanted,
};
pub use workload_api::ApiMessage;

/// The shortest pause between two tries at a source.
const MIN_PAUSE: Duration = Duration::from_secs(1);

/// Everything that says whom we trust and who we are, opened.
pub struct Sources {
    bundles: Arc<TrustBundles>,
    svid: CurrentSvid,
    own_files: Option<SvidSource>,
    bundle_files: BundleFiles,
    federated: Vec<Federated>,
    watched: Vec<Watched>,
    denied: Option<DeniedFile>,
    /// What is kept of trust domains beside these is still to be forgotten.
    forget: Option<(Arc<dyn Shelf>, BTreeSet<TrustDomain>)>,
    clock: Arc<dyn Clock>,
}

/// Why sources cannot be opened: what files say. Nothing else is asked at the start.
#[derive(Debug)]
pub enum BadSource {
    /// Our own certificate or its key.
    Own(String),
    /// A bundle.
    Bundle(BadBundleFile),
    /// The list of denied authorities.
    Denied(String),
}

impl BadSource {
    fn of(trust_domain: &TrustDomain, bad: BadSetting) -> Self {
        Self::Bundle(BadBundleFile { trust_domain: trust_domain.clone(), problem: bad.problem })
    }
}

impl fmt::Display for BadSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(why) => write!(f, "the broker's certificate: {why}"),
            Self::Bundle(bad) => bad.fmt(f),
            Self::Denied(why) => write!(f, "the denied authorities: {why}"),
        }
    }
}

/// Something wrong with a setting of a trust domain.
#[derive(Clone, Debug)]
pub struct BadSetting {
    /// Its name below the trust domain.
    pub setting: &'static str,
    /// What is wrong, for the operator.
    pub problem: String,
}

/// Everything that can be known of a bundle's source without asking anybody. No files at all are no problem here.
pub fn examine_bundle(trust_domain: &TrustDomain, from: &BundleFrom) -> Vec<BadSetting> {
    match from {
        BundleFrom::Files(files) if !files.is_empty() => {
            let bad = files::read(trust_domain, files).err().unwrap_or_default();
            bad.into_iter().map(|problem| BadSetting { setting: "bundles", problem }).collect()
        }
        BundleFrom::Federation { at_first, endpoint } => {
            federation::examine(trust_domain, at_first, endpoint).err().unwrap_or_default()
        }
        BundleFrom::Files(_) | BundleFrom::WorkloadApi(_) => Vec::new(),
    }
}

impl Sources {
    /// Reads all files, and reports every problem with them. Does not wait for any network: a trust domain whose bundle comes over one is refused until
    /// the first has come, but for what is configured to be trusted at first; and without an SVID of our own no handshake comes about.
    ///
    /// `own` is the trust domain that we belong to. Our own SVID may be of one of `from` instead: what gives out SVIDs mostly serves one trust domain,
    /// and it is that of the workloads beside us. `denied`: the file of the authorities that are on no path.
    pub fn open(
        own: &TrustDomain,
        own_from: &OwnFrom,
        from: BTreeMap<TrustDomain, BundleFrom>,
        denied: Option<&Path>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, Vec<BadSource>> {
        let mut problems = Vec::new();
        let domains: BTreeSet<_> = from.keys().cloned().chain([own.clone()]).collect();
        let (mut followed, mut at_first) = (BTreeMap::new(), BTreeMap::new());
        for (trust_domain, from) in &from {
            match from {
                BundleFrom::Files(files) => drop(followed.insert(trust_domain.clone(), files.clone())),
                BundleFrom::Federation { at_first: files, endpoint } => {
                    match federation::examine(trust_domain, files, endpoint) {
                        Ok(bundle) => drop(at_first.insert(trust_domain.clone(), bundle)),
                        Err(bad) => {
                            problems.extend(bad.into_iter().map(|it| BadSource::of(trust_domain, it)))
                        }
                    }
                }
                BundleFrom::WorkloadApi(_) => {}
            }
        }
        let bundle_files = BundleFiles::open(followed);
        let bundle_files =
            bundle_files.map_err(|bad| problems.extend(bad.into_iter().map(BadSource::Bundle)));
        let own_files = match own_from {
            OwnFrom::Files(files) => {
                let opened = SvidSource::open(files.clone(), Use::Server(domains.clone()), Arc::clone(clock));
                opened.map_err(|why| problems.push(BadSource::Own(why))).ok()
            }
            OwnFrom::WorkloadApi { .. } => None,
        };
        let denied = match (denied, &bundle_files) {
            (Some(path), Ok(files)) => {
                let opened = DeniedFile::open(path.to_owned(), files.bundles());
                opened.map_err(|why| problems.push(BadSource::Denied(why))).ok()
            }
            (Some(path), Err(())) => {
                problems.extend(DeniedAuthorities::read(path).err().map(BadSource::Denied));
                None
            }
            (None, _) => None,
        };
        let (true, Ok(bundle_files)) = (problems.is_empty(), bundle_files) else { return Err(problems) };
        let mut opened = Self {
            bundles: Arc::clone(bundle_files.bundles()),
            svid: own_files.as_ref().map_or_else(CurrentSvid::none, SvidSource::current),
            own_files,
            bundle_files,
            federated: Vec::new(),
            watched: Vec::new(),
            denied,
            forget: None,
            clock: Arc::clone(clock),
        };
        opened.ask_elsewhere(domains, own_from, from, &mut at_first, clock);
        Ok(opened)
    }

    /// Adds the sources that are asked over a network.
    fn ask_elsewhere(
        &mut self,
        domains: BTreeSet<TrustDomain>,
        own_from: &OwnFrom,
        from: BTreeMap<TrustDomain, BundleFrom>,
        at_first: &mut BTreeMap<TrustDomain, Option<TrustBundle>>,
        clock: &Arc<dyn Clock>,
    ) {
        let mut members = BTreeMap::<Socket, Vec<Member>>::new();
        for (trust_domain, from) in from {
            match from {
                BundleFrom::Files(_) => {}
                BundleFrom::Federation { at_first: files, endpoint } => {
                    let at_first = (at_first.remove(&trust_domain).flatten(), files);
                    let new = Federated::new(trust_domain, endpoint, at_first, &self.bundles, clock);
                    self.federated.push(new);
                }
                BundleFrom::WorkloadApi(api) => {
                    let member = Member::bundle((trust_domain, api.keep_for), &self.bundles, clock);
                    members.entry(api.socket).or_default().push(member);
                }
            }
        }
        if let OwnFrom::WorkloadApi { api, wanted } = own_from {
            let member = Member::own(&self.svid, wanted.clone(), api.keep_for, domains);
            members.entry(api.socket.clone()).or_default().push(member);
        }
        let watched = members.into_iter().map(|(socket, of)| Watched::new(socket, of, Arc::clone(clock)));
        self.watched.extend(watched);
    }

    /// Goes on with what endpoints that vouch for themselves gave before, where that is kept (ADR 0024), and forgets what is kept of trust domains that have no such endpoint any more. Waits as long as the shelf lets it
    /// and no longer: what is out of reach now is tried again while [`Sources::run`] runs.
    pub async fn recall(&mut self, shelf: Arc<dyn Shelf>) {
        let recalled = join_all(self.federated.iter_mut().map(|it| it.recall(&shelf))).await;
        let ours: BTreeSet<_> = recalled.into_iter().flatten().collect();
        if let Err(why) = kept::forget_others(shelf.as_ref(), &ours).await {
            tracing::warn!(%why, "what is kept of bundle endpoints that are not configured any more is forgotten later");
            self.forget = Some((shelf, ours));
        }
    }

    /// The bundles in force, kept up to date while [`Sources::run`] runs.
    pub const fn bundles(&self) -> &Arc<TrustBundles> {
        &self.bundles
    }

    /// Our SVID in force, likewise.
    pub fn svid(&self) -> CurrentSvid {
        self.svid.clone()
    }

    /// Follows all sources until `stop`; files are read every `interval`. Returns at once, with what runs in `tracker`.
    pub fn run(self, tracker: &TaskTracker, interval: Duration, stop: &CancellationToken) {
        tracker.spawn(Ageing::new(self.svid).run(self.clock, stop.clone()));
        if let Some(own) = self.own_files {
            tracker.spawn(own.run(interval, stop.clone()));
        }
        tracker.spawn(self.bundle_files.run(interval, stop.clone()));
        if let Some(denied) = self.denied {
            tracker.spawn(denied.run(interval, stop.clone()));
        }
        if let Some((shelf, ours)) = self.forget {
            tracker.spawn(kept::keep_forgetting(shelf, ours, stop.clone()));
        }
        for it in self.federated {
            tracker.spawn(it.run(interval, stop.clone()));
        }
        for it in self.watched {
            tracker.spawn(it.run(stop.clone()));
        }
    }
}
