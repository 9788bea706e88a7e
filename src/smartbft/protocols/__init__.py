"""Ordering protocols: rules on the chassis of `smartbft.core`. None imports another."""
