#!/bin/bash
# probekit 0.4.0: `fit_logistic_batch` gives the same probe another solution in a larger batch, and calls it converged.
#
# One regression is fitted alone and beside a copy of itself, with all other arguments equal. With solver="auto" (the
# default) Hessians of more than `max_dense_hessian_mb` in all switch the solver from "newton-cholesky" to "newton-cg",
# whose conjugate gradients stop at an absolute residual of cg_tol=1e-4. Once the gradient is that short, the step is exactly
# 0, which passes any `tol`. The default of 64 MB is exceeded by 254 probes of 256 features; here it is 0.02 MB, so that two
# probes of 64 features do, within seconds. scikit-learn solves the same objective for comparison.
#
# Expected: the same loss, up to the tolerance of 1e-6, whenever `converged` is true.
# Observed: `converged` is true, the last step is 0, and the loss is more than 1% above the minimum.
#
# Exits with 0 while that is so, with 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 scikit-learn==1.9.1 torch==2.13.0 tqdm==4.70.1
# Without sae-lens and its 40 dependencies, which only the steering helpers import.
"$folder/venv/bin/pip" install --quiet --no-deps probekit==0.4.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import sys

import numpy as np
import torch
from probekit.fitters.batch.logistic import fit_logistic_batch
from sklearn.linear_model import LogisticRegression

print({name: importlib.metadata.version(name) for name in ("probekit", "torch", "scikit-learn", "numpy")})
torch.manual_seed(0)
n, d, copies, c = 400, 64, 2, 1e4
x = torch.randn(n, d)
y = (x @ torch.randn(d) + 2 * torch.randn(n) > 0).float()
standardized = ((x - x.mean(0)) / x.std(0)).double().numpy()


def loss(w, b):
    u = standardized @ w + b
    return np.mean(np.logaddexp(0, u) - y.numpy() * u) + w @ w / (2 * c * n)


model = LogisticRegression(C=c, tol=1e-8, max_iter=10_000).fit(standardized, y.numpy())
minimum = loss(model.coef_[0], model.intercept_[0])
print(f"scikit-learn: loss {minimum:.6g}")
above = {}
for batch in (1, copies):
    fitted = fit_logistic_batch(x.expand(batch, n, d), y, c_param=c, max_dense_hessian_mb=0.02)
    w, b = fitted.to_tensor()
    about = fitted.metadatas[0]
    above[batch] = loss(w[0].double().numpy(), float(b[0])) / minimum - 1
    keys = ("newton_solver", "iterations", "converged", "final_step_inf")
    print(f"batch of {batch}: {above[batch]:+.2%} of the minimum,", {key: about[key] for key in keys})
as_described = abs(above[1]) < 1e-2 and above[copies] > 1e-2 and about["converged"] and about["final_step_inf"] == 0
print("as described" if as_described else "probekit behaves differently now")
sys.exit(0 if as_described else 1)
PYTHON
