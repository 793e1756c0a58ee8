export function watchEngine(): () => void {
  return () => {};
}
