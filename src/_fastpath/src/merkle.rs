//! Merkle trees in the shape of RFC 6962, section 2.1, over BLAKE3.
//!
//! A leaf is the keyed hash of its bytes, an inner node that of its two children's hashes, an empty tree that of the
//! empty string, each under a key of its own, so that none can pass for another (RFC 6962 has prefix bytes for that; a
//! key leaves an inner node within one block).

use crate::hashing::{derive_key, hash, hash_many, Digest};

const LEAF_CONTEXT: &str = "smartbft v1 merkle leaf";
const NODE_CONTEXT: &str = "smartbft v1 merkle node";
const EMPTY_CONTEXT: &str = "smartbft v1 merkle empty";

/// The root of the tree over `leaves`.
pub fn root(leaves: &[&[u8]]) -> Digest {
    if leaves.is_empty() {
        return hash(Some(&derive_key(EMPTY_CONTEXT, &[])), &[]);
    }
    let key = node_key();
    let mut level = leaf_level(leaves);
    while level.len() > 1 {
        level = parent_level(&key, &level);
    }
    level[0]
}

/// The inclusion proof of one leaf: its siblings' hashes from the leaf upwards; `None` if there is no such leaf.
pub fn proof(leaves: &[&[u8]], index: usize) -> Option<Vec<u8>> {
    if index >= leaves.len() {
        return None;
    }
    let key = node_key();
    let (mut level, mut position, mut siblings) = (leaf_level(leaves), index, Vec::new());
    while level.len() > 1 {
        // The last node of an odd level has no sibling: it is its own parent.
        if let Some(sibling) = level.get(position ^ 1) {
            siblings.extend_from_slice(sibling);
        }
        level = parent_level(&key, &level);
        position /= 2;
    }
    Some(siblings)
}

/// Whether `leaf` is leaf `index` of the `count` leaves under `root` (RFC 9162, section 2.1.3.2).
pub fn verify(root: &Digest, leaf: &[u8], index: u64, count: u64, proof: &[u8]) -> bool {
    if index >= count || proof.len() % 32 != 0 {
        return false;
    }
    let key = node_key();
    let (mut position, mut last) = (index, count - 1);
    let mut node = hash(Some(&derive_key(LEAF_CONTEXT, &[])), leaf);
    for sibling in proof.chunks_exact(32) {
        if last == 0 {
            return false;
        }
        if position % 2 == 1 || position == last {
            node = hash(Some(&key), &[sibling, &node].concat());
            // A node without a sibling rises until it has one.
            while position % 2 == 0 && position != 0 {
                position /= 2;
                last /= 2;
            }
        } else {
            node = hash(Some(&key), &[&node, sibling].concat());
        }
        position /= 2;
        last /= 2;
    }
    last == 0 && node == *root
}

fn node_key() -> [u8; 32] {
    derive_key(NODE_CONTEXT, &[])
}

fn leaf_level(leaves: &[&[u8]]) -> Vec<Digest> {
    let mut level = vec![[0; 32]; leaves.len()];
    hash_many(Some(&derive_key(LEAF_CONTEXT, &[])), leaves, &mut level);
    level
}

/// Pairing neighbours level by level, the odd one out rising unchanged, gives RFC 6962's tree.
fn parent_level(key: &[u8; 32], level: &[Digest]) -> Vec<Digest> {
    let pairs: Vec<&[u8]> = level.chunks_exact(2).map(|pair| pair.as_flattened()).collect();
    let mut parents = vec![[0; 32]; pairs.len()];
    hash_many(Some(key), &pairs, &mut parents);
    parents.extend(level.chunks_exact(2).remainder());
    parents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_leaf_is_proven_and_nothing_else() {
        for count in 0..40u64 {
            let texts: Vec<Vec<u8>> = (0..count).map(|i| vec![i as u8; i as usize]).collect();
            let leaves: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
            let root = root(&leaves);
            assert_eq!(proof(&leaves, leaves.len()), None);
            for index in 0..count {
                let siblings = proof(&leaves, index as usize).unwrap();
                for claimed in 0..count + 2 {
                    let leaf = leaves[index as usize];
                    assert_eq!(verify(&root, leaf, claimed, count, &siblings), claimed == index);
                }
                assert!(!verify(&root, b"another", index, count, &siblings));
            }
        }
    }
}
