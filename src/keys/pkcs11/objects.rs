//! What lies in the token: keys are made, found, held to what they have to be, used and destroyed. Each of these is a part of one call.

use cryptoki::error::{Error as Pkcs11Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use ring::aead::{AES_256_GCM, NONCE_LEN};
use x509_parser::asn1_rs::{FromDer as _, OctetString, ToDer as _};
use x509_parser::oid_registry::OID_EC_P256;

use super::conn::{Fault, Open, unfit};
use crate::ids::random;
use crate::keys::hardware::HardwareError;
use crate::keys::kek::KEK_LEN;
use crate::keys::signer::SIGNATURE_LEN;

/// Bytes of the `CKA_ID` that a key is given, chosen at random.
const REFERENCE_LEN: usize = 16;
/// Of the tag that the token adds to what it wraps, in bits.
const TAG_BITS: u64 = 128;

/// The key-encryption key, as it is looked for.
#[derive(Clone, Debug)]
pub(super) struct KekName {
    pub(super) label: String,
    /// Its `CKA_ID`, once it is known.
    pub(super) id: Option<Vec<u8>>,
}

pub(super) fn random_reference() -> Result<[u8; REFERENCE_LEN], Fault> {
    random().map_err(|_| unfit("the system's random source failed"))
}

/// Finds the one object, held to what it has to be by `judge`, and remembers where it is.
fn find(
    open: &mut Open,
    remembered: Vec<u8>,
    template: &[Attribute],
    judge: impl Fn(&Open, ObjectHandle) -> Result<(), Fault>,
) -> Result<Option<ObjectHandle>, Fault> {
    if let Some(known) = open.known.get(&remembered) {
        return Ok(Some(*known));
    }
    let found = open.session.find_objects(template)?;
    let key = match found.as_slice() {
        [] => {
            open.check()?;
            return Ok(None);
        }
        [one] => *one,
        _ => return Err(unfit(format!("{} keys have that name, where one has to", found.len()))),
    };
    judge(open, key)?;
    open.known.insert(remembered, key);
    Ok(Some(key))
}

/// The value of a `CK_BBOOL` attribute; what the token does not say is not so.
fn is_so(attributes: &[Attribute], which: fn(&Attribute) -> Option<bool>) -> bool {
    attributes.iter().find_map(which).unwrap_or(false)
}

fn never_comes_out(attributes: &[Attribute]) -> Result<(), Fault> {
    let sensitive = is_so(attributes, |it| match it {
        Attribute::Sensitive(so) => Some(*so),
        _ => None,
    });
    let extractable = attributes.iter().find_map(|it| match it {
        Attribute::Extractable(so) => Some(*so),
        _ => None,
    });
    if sensitive && extractable == Some(false) {
        return Ok(());
    }
    Err(unfit(
        "the key could be taken out of it: it has to be sensitive and not extractable (CKA_SENSITIVE, CKA_EXTRACTABLE). Make another one",
    ))
}

/// The key-encryption key.
pub(super) fn kek(open: &mut Open, name: &KekName) -> Result<ObjectHandle, Fault> {
    let mut template =
        vec![Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Label(name.label.clone().into_bytes())];
    template.extend(name.id.clone().map(Attribute::Id));
    let found = find(open, [b"kek:", name.label.as_bytes()].concat(), &template, judge_kek)?;
    found.ok_or_else(|| {
        let what = "no secret key with the label \"{label}\" is in it: `taskpass hsm create-kek` makes one";
        unfit(what.replace("{label}", &name.label))
    })
}

fn judge_kek(open: &Open, key: ObjectHandle) -> Result<(), Fault> {
    let wanted = [
        AttributeType::KeyType,
        AttributeType::ValueLen,
        AttributeType::Sensitive,
        AttributeType::Extractable,
        AttributeType::Encrypt,
        AttributeType::Decrypt,
    ];
    let said = open.session.get_attributes(key, &wanted)?;
    let aes = said.iter().any(|it| matches!(it, Attribute::KeyType(kind) if *kind == KeyType::AES));
    let long = said
        .iter()
        .any(|it| matches!(it, Attribute::ValueLen(length) if u64::from(*length) == KEK_LEN as u64));
    if !aes || !long {
        return Err(unfit("the key-encryption key has to be an AES key of 256 bits"));
    }
    let may = |which: fn(&Attribute) -> Option<bool>| is_so(&said, which);
    let encrypts = may(|it| match it {
        Attribute::Encrypt(so) => Some(*so),
        _ => None,
    });
    let decrypts = may(|it| match it {
        Attribute::Decrypt(so) => Some(*so),
        _ => None,
    });
    if !encrypts || !decrypts {
        return Err(unfit("the key-encryption key has to encrypt and to decrypt (CKA_ENCRYPT, CKA_DECRYPT)"));
    }
    never_comes_out(&said)
}

/// The `CKA_ID` of the key-encryption key; nothing, if it has none.
pub(super) fn kek_id(open: &mut Open, name: &KekName) -> Result<Vec<u8>, Fault> {
    let key = kek(open, name)?;
    let said = open.session.get_attributes(key, &[AttributeType::Id])?;
    let id = said.into_iter().find_map(|it| match it {
        Attribute::Id(id) => Some(id),
        _ => None,
    });
    Ok(id.unwrap_or_default())
}

/// Makes a key-encryption key, and leaves a good one of that label alone: whether one was made. Refuses where there is a secret key of that label that is none, or several.
pub(super) fn make_kek(open: &mut Open, label: &str) -> Result<bool, Fault> {
    let named = [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Label(label.as_bytes().to_vec())];
    if !open.session.find_objects(&named)?.is_empty() {
        return kek(open, &KekName { label: label.to_owned(), id: None }).map(|_| false);
    }
    open.check()?;
    let template = [
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
        Attribute::ValueLen((KEK_LEN as u64).into()),
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Id(random_reference()?.to_vec()),
    ];
    let made = open.session.generate_key(&Mechanism::AesKeyGen, &template)?;
    // As it will be found: a token may make something else of what it was asked for.
    let judged = kek(open, &KekName { label: label.to_owned(), id: None }).map(|_| true);
    if judged.is_err() {
        open.session.destroy_object(made)?;
    }
    judged
}

/// The nonce, and what was encrypted under it with its tag.
pub(super) fn encrypt(
    open: &mut Open,
    name: &KekName,
    data: &[u8],
    plain: &[u8],
) -> Result<([u8; NONCE_LEN], Vec<u8>), Fault> {
    let key = kek(open, name)?;
    let mut nonce = random::<NONCE_LEN>().map_err(|_| unfit("the system's random source failed"))?;
    // Some tokens insist on a nonce of their own, and write it where ours stands.
    let sealed = {
        let params = GcmParams::new(&mut nonce, data, TAG_BITS.into())?;
        open.session.encrypt(&Mechanism::AesGcm(params), key, plain)?
    };
    if sealed.len() != plain.len() + AES_256_GCM.tag_len() {
        return Err(unfit("what it has encrypted is not as long as AES-GCM makes it"));
    }
    Ok((nonce, sealed))
}

/// The inverse. Tokens say in many ways that a tag is wrong, some of which mean that they are broken: so one that has decrypted nothing is asked to encrypt something.
pub(super) fn decrypt(
    open: &mut Open,
    name: &KekName,
    data: &[u8],
    nonce: [u8; NONCE_LEN],
    sealed: &[u8],
) -> Result<Vec<u8>, Fault> {
    let key = kek(open, name)?;
    let mut nonce = nonce;
    let params = GcmParams::new(&mut nonce, data, TAG_BITS.into())?;
    let error = match open.session.decrypt(&Mechanism::AesGcm(params), key, sealed) {
        Ok(plain) => return Ok(plain),
        Err(error) => error,
    };
    match error {
        Pkcs11Error::Pkcs11(
            RvError::ArgumentsBad
            | RvError::DataInvalid
            | RvError::DataLenRange
            | RvError::EncryptedDataInvalid
            | RvError::EncryptedDataLenRange
            | RvError::FunctionFailed
            | RvError::GeneralError
            | RvError::SignatureInvalid
            | RvError::VendorDefined(_)
            | RvError::UnknownErrorCode(_),
            _,
        ) if encrypt(open, name, data, b"taskpass").is_ok() => Err(HardwareError::DoesNotOpen.into()),
        error => Err(error.into()),
    }
}

/// A private key that signs.
fn signing_key(open: &mut Open, reference: &[u8]) -> Result<ObjectHandle, Fault> {
    let template = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Id(reference.to_vec())];
    let found = find(open, [b"jwt:", reference].concat(), &template, judge_signing_key)?;
    found.ok_or_else(|| unfit("no private key of that id is in it"))
}

fn judge_signing_key(open: &Open, key: ObjectHandle) -> Result<(), Fault> {
    let wanted =
        [AttributeType::KeyType, AttributeType::Sensitive, AttributeType::Extractable, AttributeType::Sign];
    let said = open.session.get_attributes(key, &wanted)?;
    let ec = said.iter().any(|it| matches!(it, Attribute::KeyType(kind) if *kind == KeyType::EC));
    let signs = is_so(&said, |it| match it {
        Attribute::Sign(so) => Some(*so),
        _ => None,
    });
    if !ec || !signs {
        return Err(unfit("the key is no elliptic curve key that signs"));
    }
    never_comes_out(&said)
}

/// `r || s` over a SHA-256 digest.
pub(super) fn sign(open: &mut Open, reference: &[u8], digest: &[u8]) -> Result<[u8; SIGNATURE_LEN], Fault> {
    let key = signing_key(open, reference)?;
    let signature = open.session.sign(&Mechanism::Ecdsa, key, digest)?;
    signature.try_into().map_err(|_| unfit("a signature is not as long as one of P-256"))
}

/// Makes a P-256 key pair of that name: its public point.
pub(super) fn make_pair(open: &mut Open, reference: &[u8], label: &str) -> Result<Vec<u8>, Fault> {
    let curve = OID_EC_P256.to_der_vec().map_err(|_| unfit("the curve cannot be named"))?;
    let (id, label) = (reference.to_vec(), label.as_bytes().to_vec());
    let public = [
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Verify(true),
        Attribute::EcParams(curve),
        Attribute::Id(id.clone()),
        Attribute::Label(label.clone()),
    ];
    let private = [
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::Derive(false),
        Attribute::Id(id),
        Attribute::Label(label),
    ];
    let (public, _) = open.session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)?;
    let said = open.session.get_attributes(public, &[AttributeType::EcPoint])?;
    let point = said.into_iter().find_map(|it| match it {
        Attribute::EcPoint(point) => Some(point),
        _ => None,
    });
    let point = point.ok_or_else(|| unfit("it does not show the public half of a key that it has made"))?;
    // PKCS#11 wants it in an OCTET STRING; some tokens give it bare.
    match OctetString::from_der(&point) {
        Ok(([], inner)) => Ok(inner.as_ref().to_vec()),
        _ => Ok(point),
    }
}

/// Destroys both halves. False: the private one is not there.
pub(super) fn destroy_pair(open: &mut Open, reference: &[u8]) -> Result<bool, Fault> {
    open.known.remove([b"jwt:", reference].concat().as_slice());
    let mut was_there = false;
    for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
        for object in
            open.session.find_objects(&[Attribute::Class(class), Attribute::Id(reference.to_vec())])?
        {
            match open.session.destroy_object(object) {
                Ok(()) => was_there |= class == ObjectClass::PRIVATE_KEY,
                // Another broker was first.
                Err(Pkcs11Error::Pkcs11(RvError::ObjectHandleInvalid, _)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    if !was_there {
        open.check()?;
    }
    Ok(was_there)
}
