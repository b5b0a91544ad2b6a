//! Every source asked once, as a broker that starts would ask it: for whoever wants to know before it does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::future::join_all;

use crate::identity::bundle::{Published, TrustBundle, TrustBundles};
use crate::identity::denied::DeniedAuthorities;
use crate::identity::own::OwnSvid;
use crate::identity::sources::federation::{self, BundleEndpoint};
use crate::identity::sources::files;
use crate::identity::sources::settings::{BundleFrom, OwnFrom, Socket, Wanted};
use crate::identity::sources::workload_api::First;
use crate::identity::spiffe_id::TrustDomain;
use crate::time::{Clock, Timestamp};

/// What one source says.
pub struct Probed {
    /// Whose bundle it is asked for; `None`: for our own SVID.
    pub trust_domain: Option<TrustDomain>,
    /// Its name in the configuration, below the trust domain's section, or that of the identity.
    pub setting: &'static str,
    /// Where it is.
    pub from: String,
    /// What it says.
    pub said: Result<Said, Unsaid>,
}

/// A good answer.
pub enum Said {
    /// A bundle.
    Bundle {
        /// It, with what its source says of it.
        published: Published,
        /// When its server says that this was, and when we asked and had it.
        date: Option<(Timestamp, [Timestamp; 2])>,
    },
    /// Our own SVID.
    Own(OwnSvid),
}

/// No good answer.
#[derive(Clone, Debug)]
pub struct Unsaid {
    /// Nobody answers, and may another time; as opposed to an answer that is not to be taken.
    pub absent: bool,
    /// An endpoint that vouches for itself shows what the configured bundle does not lead to: as it does when it has replaced its authorities since that was written.
    pub outdated: bool,
    /// Why, for the operator.
    pub why: String,
}

/// Asks every source once, all that do not wait for each other at the same time, and gives each no longer than a running broker would. An endpoint that is checked by another trust
/// domain's bundle is asked when that one has been. Files are read; of what is wrong with them there is nothing here: that is [`super::examine_bundle`]'s.
pub async fn probe(
    own: &TrustDomain,
    own_from: &OwnFrom,
    from: &BTreeMap<TrustDomain, BundleFrom>,
    denied: DeniedAuthorities,
    clock: &Arc<dyn Clock>,
) -> Vec<Probed> {
    let bundles = Arc::new(TrustBundles::new([]));
    bundles.deny(denied);
    let mut probed = Vec::new();
    let mut endpoints = Vec::new();
    for (trust_domain, from) in from {
        match from {
            BundleFrom::Files(paths) => probed.extend(of_files(trust_domain, paths, &bundles)),
            BundleFrom::Federation { at_first, endpoint } => {
                let at_first = federation::examine(trust_domain, at_first, endpoint).unwrap_or_default();
                if let Some(bundle) = &at_first {
                    bundles.set(bundle.clone());
                }
                let of = (trust_domain.clone(), endpoint.clone());
                endpoints.push((of.0.clone(), BundleEndpoint::beside(of.0, of.1, at_first, &bundles, clock)));
            }
            BundleFrom::WorkloadApi(_) => {}
        }
    }
    let (by_apis, by_endpoints) = {
        // Bundles of Workload APIs may be what endpoints are checked by.
        let by_apis = of_apis(own, own_from, from, clock).await;
        for it in &by_apis {
            if let Ok(Said::Bundle { published, .. }) = &it.said {
                bundles.set(published.bundle.clone());
            }
        }
        (by_apis, of_endpoints(endpoints, &bundles, clock).await)
    };
    probed.extend(by_apis);
    probed.extend(by_endpoints);
    probed
}

fn of_files(
    trust_domain: &TrustDomain,
    paths: &[std::path::PathBuf],
    bundles: &TrustBundles,
) -> Option<Probed> {
    let bundle = files::read(trust_domain, paths).ok()?;
    bundles.set(bundle.clone());
    let names: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    let said = Said::Bundle { published: alone(bundle), date: None };
    Some(Probed {
        trust_domain: Some(trust_domain.clone()),
        setting: "bundles",
        from: names.join(", "),
        said: Ok(said),
    })
}

/// A bundle of which nothing else is said.
const fn alone(bundle: TrustBundle) -> Published {
    Published { bundle, sequence: None, refresh_hint: None, others: Vec::new() }
}

async fn of_endpoints(
    mut waiting: Vec<(TrustDomain, BundleEndpoint)>,
    bundles: &TrustBundles,
    clock: &Arc<dyn Clock>,
) -> Vec<Probed> {
    let mut probed = Vec::new();
    while !waiting.is_empty() {
        let pending: BTreeSet<_> = waiting.iter().map(|(trust_domain, _)| trust_domain.clone()).collect();
        let held: BTreeSet<_> = bundles
            .trust_domains()
            .into_iter()
            .filter(|(_, anchors)| *anchors > 0)
            .map(|(of, _)| of)
            .collect();
        let by = |endpoint: &BundleEndpoint, is: &dyn Fn(&TrustDomain) -> bool| {
            endpoint.checked_by().is_none_or(is)
        };
        let settled = waiting.iter().any(|(_, it)| by(it, &|of| !pending.contains(of)));
        let (ready, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(_, it)| match settled {
            true => by(it, &|of| !pending.contains(of)),
            // They wait for each other: what is trusted at first is all that there is.
            false => by(it, &|of| held.contains(of)),
        });
        if ready.is_empty() {
            probed.extend(rest.into_iter().map(|(of, it)| stuck(of, &it)));
            break;
        }
        let asked = join_all(ready.into_iter().map(|(of, it)| ask(of, it, clock))).await;
        for it in &asked {
            if let Ok(Said::Bundle { published, .. }) = &it.said {
                bundles.set(published.bundle.clone());
            }
        }
        probed.extend(asked);
        waiting = rest;
    }
    probed
}

async fn ask(of: TrustDomain, mut endpoint: BundleEndpoint, clock: &Arc<dyn Clock>) -> Probed {
    let since = clock.now();
    let said = match endpoint.ask().await {
        Ok(fetched) => match endpoint.take(&fetched.body) {
            Ok(published) => {
                let date = fetched.date.map(|date| (date, [since, clock.now()]));
                Ok(Said::Bundle { published, date })
            }
            Err(why) => Err(wrong(why)),
        },
        Err(why) => {
            let outdated = endpoint.vouches_for_itself() && why.leads_elsewhere();
            Err(Unsaid { absent: why.is_absence(), outdated, why: why.to_string() })
        }
    };
    endpoint_says(of, &endpoint, said)
}

/// An answer that is not to be taken.
const fn wrong(why: String) -> Unsaid {
    Unsaid { absent: false, outdated: false, why }
}

fn stuck(of: TrustDomain, endpoint: &BundleEndpoint) -> Probed {
    let by = endpoint.checked_by().map(ToString::to_string).unwrap_or_default();
    let why = format!(
        "it is checked by the bundle of {by}, which waits for the bundle of {of} in turn, or could not be had"
    );
    endpoint_says(of, endpoint, Err(wrong(why)))
}

fn endpoint_says(of: TrustDomain, endpoint: &BundleEndpoint, said: Result<Said, Unsaid>) -> Probed {
    Probed { trust_domain: Some(of), setting: "federation.url", from: endpoint.url().to_string(), said }
}

/// Who wants what of one Workload API.
#[derive(Default)]
struct Wants<'a> {
    bundles: Vec<&'a TrustDomain>,
    own: Option<&'a Wanted>,
}

async fn of_apis(
    own: &TrustDomain,
    own_from: &OwnFrom,
    from: &BTreeMap<TrustDomain, BundleFrom>,
    clock: &Arc<dyn Clock>,
) -> Vec<Probed> {
    let mut apis = BTreeMap::<&Socket, Wants<'_>>::new();
    for (trust_domain, from) in from {
        if let BundleFrom::WorkloadApi(api) = from {
            apis.entry(&api.socket).or_default().bundles.push(trust_domain);
        }
    }
    if let OwnFrom::WorkloadApi { api, wanted } = own_from {
        apis.entry(&api.socket).or_default().own = Some(wanted);
    }
    let domains: BTreeSet<_> = from.keys().cloned().chain([own.clone()]).collect();
    let all = apis.into_iter().map(|(socket, wants)| of_api(socket, wants, &domains, clock));
    join_all(all).await.into_iter().flatten().collect()
}

async fn of_api(
    socket: &Socket,
    wants: Wants<'_>,
    domains: &BTreeSet<TrustDomain>,
    clock: &Arc<dyn Clock>,
) -> Vec<Probed> {
    let first = First::of(socket, wants.own.is_some()).await;
    let first = first.map_err(|(absent, why)| Unsaid { absent, ..wrong(why) });
    let says = |trust_domain, said| Probed {
        trust_domain,
        setting: "workload_api.socket",
        from: socket.to_string(),
        said,
    };
    let own = wants.own.map(|wanted| {
        let said = first
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|it| it.own(wanted, domains, clock.now()).map_err(wrong));
        says(None, said.map(Said::Own))
    });
    let bundles = wants.bundles.into_iter().map(|of| {
        let said = first.as_ref().map_err(Clone::clone).and_then(|it| it.bundle(of).map_err(wrong));
        says(Some(of.clone()), said.map(|bundle| Said::Bundle { published: alone(bundle), date: None }))
    });
    own.into_iter().chain(bundles).collect()
}
