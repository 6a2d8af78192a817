"""Everything private of torch, one file a subsystem, one function a need. Nothing private of torch stands anywhere else.

Importing any module of it first checks that this torch has what is used.
"""

import torch

from graphckpt.compat.versions import check_torch

check_torch(torch.__version__)
