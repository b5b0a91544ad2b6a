//! What bundle endpoints have given, kept for brokers that start.

use async_trait::async_trait;

use super::EmbeddedStore;
use super::rows::{after_prefix, bundle_key};
use super::txn::Txn;
use super::view::{self, Stepped, Table};
use crate::keys::store::{BundleStore, Slot, SlotMark, slot_mark};
use crate::task::store::StepResult;

fn mark_of(table: &impl Table, of: &str) -> Stepped<Option<SlotMark>> {
    view::get(table, &bundle_key(of), |document| Ok(slot_mark(document)))
}

fn kept(table: &impl Table, of: &str, limit: u32) -> Stepped<Option<Slot>> {
    view::get(table, &bundle_key(of), |document| {
        let fits = u32::try_from(document.len()).is_ok_and(|length| length <= limit);
        Ok(Slot { document: fits.then(|| document.to_vec()), mark: slot_mark(document) })
    })
}

fn keep(txn: &mut Txn<'_>, of: &str, instead_of: Option<SlotMark>, document: Option<&[u8]>) -> Stepped<bool> {
    if mark_of(txn.table(), of)? != instead_of {
        return Ok(false);
    }
    match document {
        Some(document) => txn.put(&bundle_key(of), document)?,
        None => drop(txn.remove(&bundle_key(of))?),
    }
    Ok(true)
}

fn all(table: &impl Table) -> Stepped<Vec<String>> {
    let from = bundle_key("");
    let rows = table.range(from.as_slice()..after_prefix(&from).as_slice())?;
    let name = |key: &[u8]| String::from_utf8_lossy(key.get(from.len()..).unwrap_or_default()).into_owned();
    rows.map(|row| Ok(name(row?.0.value()))).collect()
}

#[async_trait]
impl BundleStore for EmbeddedStore {
    async fn kept_bundle(&self, of: &str, limit: u32) -> StepResult<Option<Slot>> {
        self.reading_all(|table| kept(table, of, limit)).await
    }

    async fn keep_bundle(
        &self,
        of: &str,
        instead_of: Option<SlotMark>,
        document: Option<&[u8]>,
    ) -> StepResult<bool> {
        let (of, document) = (of.to_owned(), document.map(<[u8]>::to_vec));
        self.writing(move |txn| keep(txn, &of, instead_of, document.as_deref())).await
    }

    async fn kept_bundles(&self) -> StepResult<Vec<String>> {
        self.reading_all(all).await
    }
}
