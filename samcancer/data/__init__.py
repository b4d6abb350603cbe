"""Case stores, folds, the annotation ledger and the samples drawn from them."""
