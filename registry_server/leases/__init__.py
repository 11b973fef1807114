"""The lease ids that users see: which key proves them, and who may use one."""
