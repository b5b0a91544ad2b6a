//! Task certificates: a CSR or a public key with its proof in, a chain out that names the task.
//!
//! ```text
//! bytes --request--> ProvenPublicKey --template--> what is to be signed --TaskCa--> DER --judge--> IssuedCertificate
//! ```
//!
//! Of a request nothing is taken but its public key (A54). What is issued is parsed again and compared with the template before it leaves.
//!
//! Absent here: who may have one and for how long (`policy`, `ops`), the record of it (`store`), reads of the clock, private key bytes.

mod issue;
mod judge;
mod recognise;
mod request;
mod template;

pub use issue::{CertIssuer, IssuedCertificate};
pub use recognise::{OwnCertificate, recognise};
pub use request::{KeyAlgorithm, MAX_CSR_BYTES, MAX_SPKI_BYTES, ProvenPublicKey, proof_message};
pub use template::{BACKDATE, LeafRequest, task_spiffe_id};

#[cfg(test)]
mod tests;
