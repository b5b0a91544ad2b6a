//! Task certificates: a CSR or a public key with its proof in, a chain out that names the task.
//!
//! ```text
//! bytes --request--> ProvenPublicKey --template--> what is to be signed --TaskCa--> DER --judge--> IssuedCertificate
//! ```
//!
//! Of a request nothing is taken but its public key (A54). What is issued is parsed again and compared with the template before it leaves.
//!
//! What was revoked is told in lists ([`RevocationList`], RFC 5280 section 5), which are judged the same way.
//!
//! Absent here: who may have one and for how long (`policy`, `ops`), the record of it (`store`), reads of the clock, private key bytes.

mod describe;
mod issue;
mod judge;
mod recognise;
mod request;
mod revoked;
mod template;

pub use describe::{Described, describe};
pub use issue::{CertIssuer, IssuedCertificate};
pub use recognise::{OwnCertificate, recognise};
pub use request::{KeyAlgorithm, MAX_CSR_BYTES, MAX_SPKI_BYTES, ProvenPublicKey, proof_message};
pub use revoked::{RevocationList, Revoked, Why, sign_list};
pub use template::{BACKDATE, LeafRequest, task_spiffe_id};

#[cfg(test)]
mod tests;
