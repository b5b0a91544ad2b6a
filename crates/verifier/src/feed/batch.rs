//! One signature for frames that leave together: they are the entries of a Merkle tree (RFC 9162, section 2.1, with SHA-256), its head is signed, and each frame brings the way from itself to the head.
//!
//! Whoever knows the head's signature to be good knows that each payload with such a way was among those that were signed, at its place and no other. What a payload says
//! (which stream, which place in it) is for its reader to judge. The hashes on a way tell nothing of the payloads beside it, which are of other streams and carry nonces.

use ring::digest::{Context, SHA256};

/// Most frames that are signed together.
pub const MOST: u64 = 1 << 16;
/// What is signed is this, the number of frames in eight bytes, big-endian, and the tree's root.
const SIGNED_AS: &[u8] = b"taskpass-feed-batch-v1\0";
/// The longest way: the logarithm of [`MOST`].
const MOST_NODES: usize = 16;

/// A SHA-256 digest, of a payload or of two nodes.
pub type Node = [u8; 32];

/// Where a payload stands among those that were signed with it. Nothing of it is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// Which of them it is, from 0.
    pub index: u64,
    /// How many they are.
    pub size: u64,
    /// The nodes beside the way to the root, the payload's neighbour first: 32 bytes each.
    pub path: &'a [u8],
}

impl Place<'_> {
    /// What must have been signed if `payload` stands there. `None`: there is no such place, or more than [`MOST`].
    pub fn head(&self, payload: &[u8]) -> Option<Vec<u8>> {
        let (path, rest) = self.path.as_chunks();
        if self.index >= self.size || self.size > MOST || path.len() > MOST_NODES || !rest.is_empty() {
            return None;
        }
        // RFC 9162, section 2.1.3.2.
        let (mut index, mut last, mut root) = (self.index, self.size - 1, leaf(payload));
        for node in path {
            if last == 0 {
                return None;
            }
            if index & 1 == 1 || index == last {
                root = above(node, &root);
                while index & 1 == 0 && index != 0 {
                    (index, last) = (index >> 1, last >> 1);
                }
            } else {
                root = above(&root, node);
            }
            (index, last) = (index >> 1, last >> 1);
        }
        (last == 0).then(|| head(self.size, &root))
    }
}

/// What stands for a payload in the tree.
pub fn leaf(payload: &[u8]) -> Node {
    hash(&[&[0], payload])
}

/// A tree of what leaves together.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The leaves, and what is above them, up to the root.
    levels: Vec<Vec<Node>>,
}

impl Batch {
    /// Of these leaves, in this order: at least one, at most [`MOST`].
    pub fn new(leaves: Vec<Node>) -> Option<Self> {
        if leaves.is_empty() || leaves.len() as u64 > MOST {
            return None;
        }
        let mut levels = vec![leaves];
        while let Some(below) = levels.last().filter(|level| level.len() > 1) {
            // One that has no neighbour rises as it is.
            let pair = |pair: &[Node]| match pair {
                [left, right] => above(left, right),
                alone => alone.first().copied().unwrap_or_default(),
            };
            let next = below.chunks(2).map(pair).collect();
            levels.push(next);
        }
        Some(Self { levels })
    }

    /// What is to be signed.
    pub fn head(&self) -> Vec<u8> {
        let root = self.levels.last().and_then(|level| level.first()).copied().unwrap_or_default();
        head(self.size(), &root)
    }

    /// How many there are.
    pub fn size(&self) -> u64 {
        self.levels.first().map_or(0, |leaves| leaves.len() as u64)
    }

    /// The way from a leaf: what [`Place::path`] is to be.
    pub fn path(&self, index: usize) -> Vec<u8> {
        let beside =
            self.levels.iter().enumerate().filter_map(|(height, level)| level.get((index >> height) ^ 1));
        beside.flatten().copied().collect()
    }
}

fn above(left: &Node, right: &Node) -> Node {
    hash(&[&[1], left, right])
}

fn head(size: u64, root: &Node) -> Vec<u8> {
    [SIGNED_AS, &size.to_be_bytes(), root].concat()
}

fn hash(parts: &[&[u8]]) -> Node {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut node = Node::default();
    node.copy_from_slice(context.finish().as_ref());
    node
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The entries and roots by which implementations of Certificate Transparency test their trees.
    const ENTRIES: [&[u8]; 8] = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"\x40\x41\x42\x43",
        b"\x50\x51\x52\x53\x54\x55\x56\x57",
        b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
    ];
    const ROOTS: [&str; 8] = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    fn batch(payloads: &[Vec<u8>]) -> Batch {
        Batch::new(payloads.iter().map(|payload| leaf(payload)).collect()).unwrap()
    }

    fn payloads(number: usize) -> Vec<Vec<u8>> {
        (0..number).map(|payload| payload.to_string().into_bytes()).collect()
    }

    #[test]
    fn trees_have_the_roots_of_rfc_9162() {
        for (last, root) in ROOTS.iter().enumerate() {
            let head = Batch::new(ENTRIES[..=last].iter().map(|entry| leaf(entry)).collect()).unwrap().head();
            let hex: String = head[head.len() - 32..].iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, *root, "{} entries", last + 1);
        }
    }

    #[test]
    fn each_payload_leads_to_the_head_from_its_place_and_from_no_other() {
        for number in (1..=33).chain([64, 100, 1000]) {
            let payloads = payloads(number);
            let batch = batch(&payloads);
            let head = batch.head();
            for (index, payload) in payloads.iter().enumerate() {
                let path = batch.path(index);
                let place = Place { index: index as u64, size: number as u64, path: &path };
                assert_eq!(place.head(payload).as_ref(), Some(&head), "{index} of {number}");
                assert_ne!(place.head(b"another").as_ref(), Some(&head));
                for other in (0..number as u64 + 1).filter(|other| *other != index as u64) {
                    assert_ne!(Place { index: other, ..place }.head(payload).as_ref(), Some(&head));
                }
                for size in [number as u64 - 1, number as u64 + 1] {
                    assert_ne!(Place { size, ..place }.head(payload).as_ref(), Some(&head));
                }
            }
        }
    }

    #[test]
    fn a_node_of_the_tree_is_no_payload() {
        let payloads = payloads(4);
        let batch = batch(&payloads);
        let inner = [batch.levels[0][0], batch.levels[0][1]].concat();
        let path = batch.levels[1][1].to_vec();
        let place = Place { index: 0, size: 2, path: &path };
        assert_ne!(place.head(&inner).unwrap(), batch.head());
        assert_ne!(place.head(&inner).unwrap()[31..], batch.head()[31..]);
    }

    #[test]
    fn ways_that_lead_nowhere_are_refused() {
        let payloads = payloads(5);
        let path = batch(&payloads).path(1);
        let place = Place { index: 1, size: 5, path: &path };
        assert!(place.head(&payloads[1]).is_some());
        let longer = [path.clone(), vec![0; 32]].concat();
        let endless = vec![0; 32 * 64];
        for bad in [
            Place { index: 5, ..place },
            Place { index: u64::MAX, ..place },
            Place { size: 0, ..place },
            Place { size: MOST + 1, ..place },
            Place { size: u64::MAX, ..place },
            Place { path: &path[1..], ..place },
            Place { path: &path[32..], ..place },
            Place { path: &longer, ..place },
            Place { path: &endless, ..place },
            Place { path: &[], ..place },
        ] {
            assert_eq!(bad.head(&payloads[1]), None, "{bad:?}");
        }
    }

    #[test]
    fn there_is_no_batch_of_nothing_and_none_without_end() {
        assert!(Batch::new(Vec::new()).is_none());
        assert!(Batch::new(vec![[0; 32]; MOST as usize]).is_some());
        assert!(Batch::new(vec![[0; 32]; MOST as usize + 1]).is_none());
    }
}
